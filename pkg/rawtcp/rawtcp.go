// Package rawtcp has TCP connections whose system calls Go's scheduler is not told of.
//
// It has to be told of those that may block, and has a thread (sysmon) that looks after
// them. Whenever a process has nothing to do, that thread is put to sleep, and the next
// system call that is told of wakes it: where a gateway is woken thousands of times a
// second, that is a quarter of its CPU. What a socket does not block on takes some
// microseconds, which the scheduler can do without.
package rawtcp

import (
	"net"
	"syscall"
)

// Conn is a TCP connection. It does what the *net.TCPConn in it does, with the same errors.
type Conn struct {
	*net.TCPConn
	raw syscall.RawConn
}

// Wrap makes a *Conn of a *net.TCPConn, and leaves any other connection as it is.
func Wrap(c net.Conn) net.Conn {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return c
	}
	return &Conn{tcp, raw}
}

// Listener accepts connections as Wrap makes them.
type Listener struct{ net.Listener }

// Accept waits for the next connection.
func (l Listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return Wrap(c), nil
}
