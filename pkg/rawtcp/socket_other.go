//go:build unix && (!linux || 386 || race)

package rawtcp

import (
	"errors"
	"syscall"
)

// Send hands a socket what it takes at once, and answers with how much that is, or why
// nothing.
func Send(fd int, p []byte) (int, syscall.Errno) {
	n, err := syscall.Write(fd, p)
	return max(n, 0), errno(err)
}

// Receive takes from a socket what is there, and answers with how much that is, 0 at its
// end, or why nothing.
func Receive(fd int, p []byte, flags int) (int, syscall.Errno) {
	n, _, err := syscall.Recvfrom(fd, p, flags|syscall.MSG_DONTWAIT)
	return max(n, 0), errno(err)
}

func errno(err error) (e syscall.Errno) {
	_ = errors.As(err, &e)
	return e
}
