//go:build unix && (!linux || 386 || race || msan || asan)

package rawtcp

import (
	"cmp"
	"errors"
	"syscall"
)

// Here Read and Write are those of *net.TCPConn, so that the race detector sees what they do,
// and the order that they establish between goroutines.

// Take receives what is there, without waiting. flags are those of recvfrom. It returns the
// number of bytes, which is 0 at the end of the stream, or syscall.EAGAIN if nothing is
// there. After the read deadline it receives nothing.
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

// Send writes as much of p as the socket takes at once, and returns that number of bytes, or
// the reason why it took none.
func Send(fd int, p []byte) (int, syscall.Errno) {
	return uninterrupted(func() (int, error) { return syscall.Write(fd, p) })
}

// Receive is like Take on a descriptor. The caller must keep it open.
func Receive(fd int, p []byte, flags int) (int, syscall.Errno) {
	return uninterrupted(func() (n int, err error) {
		if flags == 0 {
			return syscall.Read(fd, p) // the race detector sees this one
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
