//go:build !linux || 386

package gateway

import "syscall"

// send hands a socket what it takes at once, and answers with how much that is.
func send(fd int, p []byte) int {
	n, err := syscall.Write(fd, p)
	if err != nil {
		return 0
	}
	return n
}
