//go:build !386 && !race

package rawtcp

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

// call is a read or a write under way. Package net is handed a function for each, which
// would have to be made anew for each.
type call struct {
	p     []byte // to read to; what is left to be written
	n     int
	errno syscall.Errno
	next  [1]byte // that Idle looks at

	receive, peek, send func(fd uintptr) bool
}

var calls = sync.Pool{New: func() any {
	c := new(call)
	c.receive = func(fd uintptr) bool {
		c.n, c.errno = Receive(int(fd), c.p, 0)
		return c.errno != syscall.EAGAIN
	}
	c.peek = func(fd uintptr) bool {
		c.n, c.errno = Receive(int(fd), c.next[:], syscall.MSG_PEEK)
		return true
	}
	c.send = func(fd uintptr) bool {
		for len(c.p) > 0 {
			var n int
			if n, c.errno = Send(int(fd), c.p); c.errno != 0 {
				return c.errno != syscall.EAGAIN
			}
			c.n += n
			c.p = c.p[n:]
		}
		return true
	}
	return c
}}

func begin(p []byte) *call {
	c, _ := calls.Get().(*call)
	c.p, c.n, c.errno = p, 0, 0
	return c
}

// end answers with how much was read or written. failed is package net's error.
func (c *call) end(failed error) (n int, err error) {
	n, err = c.n, failed
	if err == nil && c.errno != 0 {
		err = c.errno
	}
	c.p = nil
	calls.Put(c)
	return n, err
}

// Read reads what has come, or waits for something to come.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	op := begin(p)
	n, err := op.end(c.raw.Read(op.receive))
	switch {
	case err != nil:
		return 0, c.fault("read", err)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write writes all of p, or answers with how much of it was taken, and why no more.
func (c *Conn) Write(p []byte) (int, error) {
	op := begin(p)
	n, err := op.end(c.raw.Write(op.send))
	if err != nil {
		return n, c.fault("write", err)
	}
	return n, nil
}

// Idle reports whether the connection is open with nothing to read.
func (c *Conn) Idle() bool {
	op := begin(nil)
	_, err := op.end(c.raw.Read(op.peek))
	return err == syscall.EAGAIN //nolint:errorlint // as Receive answers
}

// fault is an error as package net words it.
func (c *Conn) fault(op string, err error) error {
	var errno syscall.Errno
	if failed, ok := errors.AsType[*net.OpError](err); ok {
		err = failed.Err
	} else if errors.As(err, &errno) {
		err = os.NewSyscallError(op, errno)
	}
	local := c.LocalAddr()
	return &net.OpError{Op: op, Net: local.Network(), Source: local, Addr: c.RemoteAddr(), Err: err}
}

// Send hands a socket what it takes at once, and answers with how much that is, or why
// nothing. Not by SYS_WRITE: by way of the file that the socket is as well, the kernel takes
// 5 % longer.
func Send(fd int, p []byte) (int, syscall.Errno) {
	return transfer(syscall.SYS_SENDTO, fd, p, syscall.MSG_NOSIGNAL)
}

// Receive takes from a socket what is there, and answers with how much that is, 0 at its
// end, or why nothing.
func Receive(fd int, p []byte, flags int) (int, syscall.Errno) {
	return transfer(syscall.SYS_RECVFROM, fd, p, flags)
}

func transfer(trap uintptr, fd int, p []byte, flags int) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), uintptr(flags|syscall.MSG_DONTWAIT), 0, 0)
		switch errno {
		case 0:
			return int(n), 0
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}
