package gateway

import (
	"cmp"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/rawtcp"
)

const (
	edge = 1 << 31 // EPOLLET, which package syscall defines as a negative number
	// news are the events for a parked session: something can be read, or the peer has ended. Each
	// is reported once.
	news = syscall.EPOLLIN | syscall.EPOLLRDHUP | edge
	// noNews are the events for a session that has a goroutine and reads by itself: none, or every
	// message would be reported here too. A broken connection is still reported, once, and serve
	// ignores that.
	noNews = edge
)

// parking waits for all parked sessions at once. It begins with the first one.
type parking struct {
	off atomic.Bool // sessions are not parked for now

	mu     sync.Mutex
	epoll  *os.File           // waited for by Go's own poller; nil before the first session is parked
	parked map[int32]*session // by descriptor
	ended  sync.WaitGroup
}

// open returns the epoll instance. It makes it at the first call.
func (p *parking) open() (*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.epoll != nil {
		return p.epoll, nil
	}
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil { // or os.NewFile would not give it to Go's poller
		_ = syscall.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	epoll := os.NewFile(uintptr(fd), "epoll")
	if err := epoll.SetReadDeadline(time.Time{}); err != nil { // Go's poller did not take it
		_ = epoll.Close()
		return nil, err
	}
	p.epoll, p.parked = epoll, make(map[int32]*session)
	p.ended.Go(func() { p.serve(epoll) })
	return epoll, nil
}

// close ends what open began. It is called when no session is parked any more.
func (p *parking) close() {
	p.mu.Lock()
	if p.epoll != nil {
		_ = p.epoll.Close()
	}
	p.mu.Unlock()
	p.ended.Wait()
}

// watch wakes the session when there is something to read. The caller holds the socket's lock.
func (p *parking) watch(s *session) error {
	epoll, err := p.open()
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.parked[int32(s.sock.fd)] = s
	p.mu.Unlock()
	err = arm(epoll, syscall.EPOLL_CTL_MOD, s, news)
	if errors.Is(err, syscall.ENOENT) { // the session's first time
		err = arm(epoll, syscall.EPOLL_CTL_ADD, s, news)
	}
	if err != nil {
		p.forget(s)
	}
	return err
}

// arm sets the events of a session's socket that epoll reports.
func arm(epoll *os.File, op int, s *session, events uint32) error {
	raw, err := epoll.SyscallConn()
	if err != nil {
		return err
	}
	event := syscall.EpollEvent{Events: events, Fd: int32(s.sock.fd)}
	failed := raw.Control(func(fd uintptr) {
		err = os.NewSyscallError("epoll_ctl", syscall.EpollCtl(int(fd), op, s.sock.fd, &event))
	})
	return cmp.Or(failed, err)
}

// forget undoes watch. It is called before the socket is closed, since the next socket may get
// the same descriptor.
func (p *parking) forget(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if fd := int32(s.sock.fd); p.parked[fd] == s {
		delete(p.parked, fd)
		_ = arm(p.epoll, syscall.EPOLL_CTL_MOD, s, noNews)
	}
}

// serve wakes sessions until close.
func (p *parking) serve(epoll *os.File) {
	raw, err := epoll.SyscallConn()
	if err != nil {
		return // closed already
	}
	events := make([]syscall.EpollEvent, 256)
	for {
		n := 0
		if err := raw.Read(func(fd uintptr) bool {
			// Go's poller reports only new events, so take all there are before waiting.
			n, _ = syscall.EpollWait(int(fd), events, 0)
			return n > 0
		}); err != nil {
			return
		}
		for _, e := range events[:n] {
			p.mu.Lock()
			s := p.parked[e.Fd]
			p.mu.Unlock()
			if s != nil && !(e.Events == syscall.EPOLLIN && s.absorbPong()) {
				s.sock.wake()
			}
		}
	}
}

// absorbPong reads the answer to a ping, if nothing else has come, and leaves the session
// parked. To wake the session for it would cost three times as much, for a goroutine and the
// WebSocket library's timers. It reports false if the session must be woken.
func (s *session) absorbPong() bool {
	s.sock.mu.Lock()
	defer s.sock.mu.Unlock()
	if s.sock.parked != s {
		return true // another goroutine has woken it
	}
	var in [len(pongHeader) + 4 + 1]byte // the mask, and one byte to see whether more has come
	n, errno := rawtcp.Receive(s.sock.fd, in[:], syscall.MSG_PEEK)
	if errno != 0 || n != len(in)-1 || string(in[:len(pongHeader)]) != pongHeader || !s.in.meter.allowance.Allow() {
		return false
	}
	if n, errno = rawtcp.Receive(s.sock.fd, in[:n], 0); errno != 0 || n != len(in)-1 {
		return false
	}
	s.hear()
	return true
}
