// Package rawtcp has TCP connections whose system calls Go's scheduler is not told of.
//
// The scheduler wants to know of calls that may block, and has a thread (sysmon) that looks
// after them. Whenever a process has nothing to do, that thread falls asleep, and the next
// call that the scheduler is told of wakes it: where a gateway is woken thousands of times a
// second, that is a quarter of its CPU. What a socket does not block on takes microseconds,
// which the scheduler can do without.
//
// Its price: that thread also interrupts who computes for more than 10 ms, and looks for news
// of the network while all are busy. So one call in 512 is told of, for it to be awake while
// there is much to send. Who computes for long behind a call that was not is interrupted at
// the next timer, or at the next call that is.
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
