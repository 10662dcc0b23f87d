//go:build unix && (!linux || 386 || race || msan || asan)

package rawtcp

import (
	"cmp"
	"errors"
	"syscall"
)

// Read and Write are those of *net.TCPConn here. The race detector sees what they do, and
// what goroutines learn from each other by them.

// Take receives what is there, with the flags of recvfrom: it never waits. It answers with
// how much that is, 0 at the end; syscall.EAGAIN says that nothing is there. Past a read
// deadline it receives nothing.
func (c *Conn) Take(p []byte, flags int) (n int, err error) {
	failed := c.raw.Read(func(fd uintptr) bool {
		var errno syscall.Errno
		if n, errno = Receive(int(fd), p, flags); errno != 0 {
			err = errno
		}
		return true
	})
	if failed != nil {
		return 0, failed
	}
	return n, err
}

// Send hands a socket what it takes at once, and answers with how much that is, or why
// nothing.
func Send(fd int, p []byte) (int, syscall.Errno) {
	return uninterrupted(func() (int, error) { return syscall.Write(fd, p) })
}

// Receive is Take on a descriptor that the caller keeps open.
func Receive(fd int, p []byte, flags int) (int, syscall.Errno) {
	return uninterrupted(func() (n int, err error) {
		if flags == 0 {
			return syscall.Read(fd, p) // which the race detector sees
		}
		n, _, err = syscall.Recvfrom(fd, p, flags)
		return n, err
	})
}

func uninterrupted(call func() (int, error)) (int, syscall.Errno) {
	for {
		n, err := call()
		if err == nil {
			return n, 0
		}
		if errno, _ := errors.AsType[syscall.Errno](err); errno != syscall.EINTR {
			return 0, cmp.Or(errno, syscall.EIO)
		}
	}
}
