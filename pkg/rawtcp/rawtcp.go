// Package rawtcp provides TCP connections that make their system calls without telling Go's
// scheduler.
//
// The scheduler wants to know of calls that may block, and has a thread (sysmon) that watches
// them. Whenever a process has nothing to do, that thread falls asleep, and the next call
// that the scheduler is told of wakes it. In a gateway that is woken thousands of times a
// second, this takes a quarter of its CPU. A call that does not block on the socket takes
// microseconds, so the scheduler need not know of it.
//
// This has a price: sysmon also interrupts goroutines that compute for more than 10 ms, and
// polls the network while all threads are busy. So the scheduler is told of one call in 512,
// which keeps sysmon awake while there is much to send. A goroutine that computes for long
// after a call that the scheduler was not told of is interrupted at the next timer, or at the
// next call that it is told of.
package rawtcp

import (
	"net"
	"syscall"
)

// Conn is a TCP connection. It behaves like the *net.TCPConn in it and returns the same
// errors.
type Conn struct {
	*net.TCPConn
	raw syscall.RawConn
}

// Wrap returns a *Conn for a *net.TCPConn, and any other connection unchanged.
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
