//go:build !386 && !race && !msan && !asan

package rawtcp

import (
	"errors"
	"io"
	"math/rand/v2"
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
	flags int
	n     int
	errno syscall.Errno

	receive, take, send func(fd uintptr) bool // true: it is over, false: wait
}

var calls = sync.Pool{New: func() any {
	c := new(call)
	c.take = func(fd uintptr) bool {
		c.n, c.errno = transfer(syscall.SYS_RECVFROM, int(fd), c.p, c.flags)
		return true
	}
	c.receive = func(fd uintptr) bool { return c.take(fd) && c.errno != syscall.EAGAIN }
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

func begin(p []byte, flags int) *call {
	c, _ := calls.Get().(*call)
	c.p, c.flags, c.n, c.errno = p, flags, 0, 0
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
	op := begin(p, 0)
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
	op := begin(p, 0)
	n, err := op.end(c.raw.Write(op.send))
	if err != nil {
		return n, c.fault("write", err)
	}
	return n, nil
}

// Take receives what is there, with the flags of recvfrom: it never waits. It answers with
// how much that is, 0 at the end; syscall.EAGAIN says that nothing is there. Past a read
// deadline it receives nothing.
func (c *Conn) Take(p []byte, flags int) (int, error) {
	op := begin(p, flags)
	return op.end(c.raw.Read(op.take))
}

// fault is an error as package net words it, whose raw connections call theirs otherwise.
func (c *Conn) fault(op string, err error) error {
	if failed, ok := errors.AsType[*net.OpError](err); ok {
		err = failed.Err
	} else {
		err = os.NewSyscallError(op, err)
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Send hands a socket what it takes at once, and answers with how much that is, or why
// nothing. Not by SYS_WRITE: by way of the file that the socket is as well, the kernel takes
// 5 % longer.
func Send(fd int, p []byte) (int, syscall.Errno) {
	return transfer(syscall.SYS_SENDTO, fd, p, syscall.MSG_NOSIGNAL)
}

// Receive is Take on a descriptor that the caller keeps open.
func Receive(fd int, p []byte, flags int) (int, syscall.Errno) {
	return transfer(syscall.SYS_RECVFROM, fd, p, flags)
}

const toldOf = 512 // one call in so many

func transfer(trap uintptr, fd int, p []byte, flags int) (int, syscall.Errno) {
	told := rand.Uint32N(toldOf) == 0
	for {
		var n uintptr
		var errno syscall.Errno
		if told {
			n, _, errno = syscall.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), uintptr(flags|syscall.MSG_DONTWAIT), 0, 0)
		} else {
			n, _, errno = syscall.RawSyscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), uintptr(flags|syscall.MSG_DONTWAIT), 0, 0)
		}
		switch errno {
		case 0:
			return int(n), 0
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}
