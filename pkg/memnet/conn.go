package memnet

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// stream is one direction of a connection.
type stream struct {
	mu      sync.Mutex
	changed sync.Cond
	data    []byte
	ended   bool // by the writer: reads return what is there, then EOF
	closed  bool // by the reader: writes fail
	broken  bool // reads and writes fail
	stalled bool // reads wait, even if there is data
	readBy  time.Time
	writeBy time.Time
	timers  [2]*time.Timer // they wake readers and writers at their deadlines
}

func newStream(stalled bool) *stream {
	s := &stream{stalled: stalled}
	s.changed.L = &s.mu
	return s
}

func late(by time.Time) bool { return !by.IsZero() && !time.Now().Before(by) }

func (s *stream) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.closed:
			return 0, net.ErrClosed
		case s.broken:
			return 0, ErrReset
		case late(s.readBy):
			return 0, os.ErrDeadlineExceeded
		case s.stalled:
		case len(s.data) > 0:
			n := copy(p, s.data)
			s.data = s.data[n:]
			s.changed.Broadcast()
			return n, nil
		case s.ended:
			return 0, io.EOF
		}
		s.changed.Wait()
	}
}

// look returns nil if the stream is open and there is nothing to read. Otherwise the error
// says why not.
func (s *stream) look() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return net.ErrClosed
	case s.broken:
		return ErrReset
	case s.stalled:
		return nil
	case len(s.data) > 0:
		return errUnread
	case s.ended:
		return io.EOF
	}
	return nil
}

func (s *stream) write(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(p) > 0 {
		switch room := Buffer - len(s.data); {
		case s.ended:
			return n, net.ErrClosed
		case s.broken || s.closed:
			return n, ErrReset
		case late(s.writeBy):
			return n, os.ErrDeadlineExceeded
		case room > 0:
			part := p[:min(room, len(p))]
			s.data = append(s.data, part...)
			n, p = n+len(part), p[len(part):]
			s.changed.Broadcast()
		default:
			s.changed.Wait()
		}
	}
	return n, nil
}

// set changes the stream's state and wakes all waiting goroutines, so that they check it
// again.
func (s *stream) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	s.changed.Broadcast()
}

func (s *stream) stall(stalled bool) { s.set(func() { s.stalled = stalled }) }
func (s *stream) reset()             { s.set(func() { s.broken, s.data = true, nil }) }

// deadline sets a deadline and wakes all waiting goroutines when it passes.
func (s *stream) deadline(by *time.Time, i int, t time.Time) {
	s.set(func() {
		*by = t
		if s.timers[i] != nil {
			s.timers[i].Stop()
			s.timers[i] = nil
		}
		if wait := time.Until(t); !t.IsZero() && wait > 0 {
			s.timers[i] = time.AfterFunc(wait, func() { s.set(func() {}) })
		}
	})
}

// Conn is one end of a connection.
type Conn struct {
	in, out       *stream
	local, remote Addr
	onClose       func()

	mu   sync.Mutex
	over bool
}

// Read reads what the other end wrote.
func (c *Conn) Read(p []byte) (int, error) { return c.in.read(p) }

// Write writes to the other end. It waits while Buffer bytes are in flight.
func (c *Conn) Write(p []byte) (int, error) { return c.out.write(p) }

// LocalAddr returns the name of this end.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the name of the other end.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// CloseWrite ends the data that this end sends: the other end reads what is there, then EOF.
func (c *Conn) CloseWrite() error {
	c.out.set(func() { c.out.ended = true })
	return nil
}

// Close ends both directions. As with TCP, if this end has not read everything that the other
// end sent, the connection is reset, and data that this end sent may be lost.
func (c *Conn) Close() error {
	c.mu.Lock()
	over := c.over
	c.over = true
	c.mu.Unlock()
	if over {
		return nil
	}
	unread := false
	c.in.set(func() {
		unread = len(c.in.data) > 0
		c.in.closed, c.in.data = true, nil
	})
	c.out.set(func() {
		c.out.ended = true
		if unread {
			c.out.broken, c.out.data = true, nil
		}
	})
	_ = c.SetDeadline(time.Time{}) // stops the timers
	c.onClose()
	return nil
}

func (c *Conn) closed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over
}

// SetReadDeadline sets the time at which reads fail, including those that are waiting.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.in.deadline(&c.in.readBy, 0, t)
	return nil
}

// SetWriteDeadline sets the time at which writes fail, including those that are waiting.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.deadline(&c.out.writeBy, 1, t)
	return nil
}

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SyscallConn is for clients such as go-redis that check a connection before they use it
// again. The Read method of the result reports what a read would find. There is no
// descriptor.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return rawConn{c.in}, nil }

var errUnread = errors.New("something was not read")

type rawConn struct{ in *stream }

func (r rawConn) Read(func(fd uintptr) bool) error { return r.in.look() }

func (rawConn) Control(func(fd uintptr)) error { return errors.ErrUnsupported }

func (rawConn) Write(func(fd uintptr) bool) error { return errors.ErrUnsupported }
