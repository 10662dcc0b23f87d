package pace

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-chat/anteroom/pkg/rawtcp"
)

const (
	readBytes     = 64 << 10
	pollEvents    = 512
	pollWakeEvery = 100 * time.Millisecond // to notice that it should end
	writePatience = 10 * time.Second
)

// taker receives the bytes of a socket. Its methods are called with the poller's lock
// held, on the poller's goroutine or in add.
type taker interface {
	attach(s *socket)    // called first
	take(b []byte) error // an error ends the socket
	broke(err error)     // called once, when no more will come
}

// poller reads all its sockets on one goroutine into one buffer. Ten thousand sockets cost
// only what the kernel takes for reading, and no goroutine of 4 KB each.
type poller struct {
	epoll int
	end   atomic.Bool
	ended chan struct{}
	busy  bool // the last wait was short; of the goroutine that reads

	mu    sync.Mutex        // guards what follows, and the state of the takers
	takes map[int32]*socket // by descriptor
}

// socket is a TCP connection outside Go's own poller.
type socket struct {
	fd    int
	taker taker

	mu     sync.Mutex // one write at a time
	closed bool
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	p := &poller{epoll: fd, ended: make(chan struct{}), takes: map[int32]*socket{}}
	addProcessors(1)
	go p.serve()
	return p, nil
}

// add reads conn for t from now on. t gets the bytes in already first. add takes over conn.
func (p *poller) add(conn net.Conn, t taker, already []byte) error {
	fd, err := detach(conn)
	if err != nil {
		return err
	}
	s := &socket{fd: fd, taker: t}
	p.mu.Lock()
	defer p.mu.Unlock()
	t.attach(s)
	if len(already) > 0 {
		if err := t.take(already); err != nil {
			return err
		}
	}
	p.takes[int32(fd)] = s
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: int32(fd)}
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// detach moves a connection's descriptor out of Go's poller, which would also wake up for it.
func detach(conn net.Conn) (fd int, err error) {
	defer conn.Close()
	inner, ok := conn.(syscall.Conn)
	if !ok {
		return 0, fmt.Errorf("%T has no descriptor", conn)
	}
	raw, err := inner.SyscallConn()
	if err != nil {
		return 0, err
	}
	if control := raw.Control(func(old uintptr) {
		fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	}); control != nil {
		return 0, control
	}
	return fd, err
}

// locked runs do while nothing is read.
func (p *poller) locked(do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do()
}

// close ends the reading, and returns when nothing is read any more.
func (p *poller) close() {
	p.end.Store(true)
	<-p.ended
	addProcessors(-1)
	_ = unix.Close(p.epoll)
}

func (p *poller) serve() {
	defer close(p.ended)
	events := make([]unix.EpollEvent, pollEvents)
	buf := make([]byte, readBytes)
	for !p.end.Load() {
		n, err := p.wait(events, pollWakeEvery)
		if err != nil && !errors.Is(err, unix.EINTR) {
			panic(fmt.Sprintf("epoll_wait: %v", err)) // only a wrong argument can cause it
		}
		p.mu.Lock()
		for _, e := range events[:max(n, 0)] {
			if s := p.takes[e.Fd]; s != nil {
				p.read(s, buf)
			}
		}
		p.mu.Unlock()
	}
}

// read reads once. If bytes are left, epoll reports the socket again.
func (p *poller) read(s *socket, buf []byte) {
	n, errno := rawtcp.Receive(s.fd, buf, 0)
	var err error
	switch {
	case errno == syscall.EAGAIN:
		return
	case errno != 0:
		err = errno
	case n == 0:
		err = io.EOF
	default:
		err = s.taker.take(buf[:n])
	}
	if err != nil {
		delete(p.takes, int32(s.fd))
		_ = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_DEL, s.fd, nil)
		s.taker.broke(err)
	}
}

// write writes all of b.
func (s *socket) write(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(b) > 0 {
		if s.closed {
			return net.ErrClosed
		}
		n, errno := rawtcp.Send(s.fd, b)
		switch errno {
		case 0:
			b = b[n:]
		case syscall.EAGAIN:
			ready := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}
			if n, err := unix.Poll(ready, int(writePatience.Milliseconds())); n == 0 && err == nil {
				return fmt.Errorf("nothing was taken for %v", writePatience)
			}
		default:
			return errno
		}
	}
	return nil
}

func (s *socket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		_ = unix.Close(s.fd)
	}
}
