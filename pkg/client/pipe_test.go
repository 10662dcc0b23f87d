package client_test

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// listener makes connections in memory. Unlike net.Pipe they hold pipeBytes in flight
// each way, as sockets do; unlike grpc's bufconn a deadline that is taken back while
// its timer fires does not count, and net/http takes one back with every upgrade.
type listener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newListener() *listener {
	return &listener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *listener) Addr() net.Addr { return memory{} }

func (l *listener) dial(ctx context.Context) (net.Conn, error) {
	up, down := newStream(), newStream()
	select {
	case l.conns <- &conn{r: up, w: down}:
		return &conn{r: down, w: up}, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type memory struct{}

func (memory) Network() string { return "memory" }
func (memory) String() string  { return "memory" }

// stream is one way of a connection.
type stream struct {
	mu      sync.Mutex
	changed *sync.Cond
	data    []byte
	ended   bool // by the writer: reads get what is there, then EOF
	closed  bool // by the reader: writes fail
	readBy  time.Time
	writeBy time.Time
}

func newStream() *stream {
	s := &stream{}
	s.changed = sync.NewCond(&s.mu)
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
		case late(s.readBy):
			return 0, os.ErrDeadlineExceeded
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

func (s *stream) write(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(p) > 0 {
		switch room := pipeBytes - len(s.data); {
		case s.closed || s.ended:
			return n, net.ErrClosed
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

// set changes a field and lets everyone look again, also at the time by.
func (s *stream) set(change func(), by time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	s.changed.Broadcast()
	if !by.IsZero() {
		time.AfterFunc(time.Until(by), s.changed.Broadcast)
	}
}

type conn struct{ r, w *stream }

func (c *conn) Read(p []byte) (int, error)  { return c.r.read(p) }
func (c *conn) Write(p []byte) (int, error) { return c.w.write(p) }
func (c *conn) LocalAddr() net.Addr         { return memory{} }
func (c *conn) RemoteAddr() net.Addr        { return memory{} }

func (c *conn) Close() error {
	c.r.set(func() { c.r.closed = true }, time.Time{})
	c.w.set(func() { c.w.ended = true }, time.Time{})
	return nil
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.r.set(func() { c.r.readBy = t }, t)
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.w.set(func() { c.w.writeBy = t }, t)
	return nil
}

func (c *conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}
