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

// call is a read or a write in progress. Package net needs a function for each. Pooled calls
// keep theirs, so that none is made for every read or write.
type call struct {
	p     []byte // buffer to read into, or what is left to write
	flags int
	n     int
	errno syscall.Errno

	receive, take, send func(fd uintptr) bool // true: done; false: wait and try again
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

// end returns the number of bytes read or written, and puts c back into the pool. failed is
// package net's error.
func (c *call) end(failed error) (n int, err error) {
	n, err = c.n, failed
	if err == nil && c.errno != 0 {
		err = c.errno
	}
	c.p = nil
	calls.Put(c)
	return n, err
}

// Read reads what has arrived, or waits until something arrives.
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

// Write writes all of p, or returns how much of it was taken and the reason why no more was.
func (c *Conn) Write(p []byte) (int, error) {
	op := begin(p, 0)
	n, err := op.end(c.raw.Write(op.send))
	if err != nil {
		return n, c.fault("write", err)
	}
	return n, nil
}

// Take receives what is there, without waiting. flags are those of recvfrom. It returns the
// number of bytes, which is 0 at the end of the stream, or syscall.EAGAIN if nothing is
// there. After the read deadline it receives nothing.
func (c *Conn) Take(p []byte, flags int) (int, error) {
	op := begin(p, flags)
	return op.end(c.raw.Read(op.take))
}

// fault returns an error like those of *net.TCPConn. Package net's raw connections name their
// operations differently.
func (c *Conn) fault(op string, err error) error {
	if failed, ok := errors.AsType[*net.OpError](err); ok {
		err = failed.Err
	} else {
		err = os.NewSyscallError(op, err)
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Send writes as much of p as the socket takes at once, and returns that number of bytes, or
// the reason why it took none. It does not use SYS_WRITE, which goes through the kernel's
// file layer and takes 5 % longer.
func Send(fd int, p []byte) (int, syscall.Errno) {
	return transfer(syscall.SYS_SENDTO, fd, p, syscall.MSG_NOSIGNAL)
}

// Receive is like Take on a descriptor. The caller must keep it open.
func Receive(fd int, p []byte, flags int) (int, syscall.Errno) {
	return transfer(syscall.SYS_RECVFROM, fd, p, flags)
}

const toldOf = 512 // the scheduler is told of one call in this many

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
