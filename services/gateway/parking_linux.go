package gateway

import (
	"cmp"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// parking waits for all parked sessions at once, from the first one on.
type parking struct {
	off atomic.Bool // nobody is parked

	mu     sync.Mutex
	epoll  *os.File           // within Go's own poller; nil before the first
	parked map[int32]*session // by descriptor
	ended  sync.WaitGroup
}

// open makes the epoll instance, at first.
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
	if err := syscall.SetNonblock(fd, true); err != nil { // what os.NewFile goes by
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

// close ends what open began. No session is parked any more.
func (p *parking) close() {
	p.mu.Lock()
	if p.epoll != nil {
		_ = p.epoll.Close()
	}
	p.mu.Unlock()
	p.ended.Wait()
}

// watch waits for something to read, once. The caller holds the socket's lock.
func (p *parking) watch(s *session) error {
	epoll, err := p.open()
	if err != nil {
		return err
	}
	fd := int32(s.sock.fd)
	p.mu.Lock()
	p.parked[fd] = s
	p.mu.Unlock()
	event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | syscall.EPOLLONESHOT, Fd: fd}
	err = control(epoll, syscall.EPOLL_CTL_MOD, &event)
	if errors.Is(err, syscall.ENOENT) { // its first time
		err = control(epoll, syscall.EPOLL_CTL_ADD, &event)
	}
	if err != nil {
		p.forget(s)
	}
	return err
}

func control(epoll *os.File, op int, event *syscall.EpollEvent) error {
	raw, err := epoll.SyscallConn()
	if err != nil {
		return err
	}
	failed := raw.Control(func(fd uintptr) {
		err = os.NewSyscallError("epoll_ctl", syscall.EpollCtl(int(fd), op, int(event.Fd), event))
	})
	return cmp.Or(failed, err)
}

// forget undoes watch. It comes before the socket is closed, whose descriptor the next
// one has.
func (p *parking) forget(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if fd := int32(s.sock.fd); p.parked[fd] == s {
		delete(p.parked, fd)
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
			// It is told of news only, so it takes all there is before it waits.
			n, _ = syscall.EpollWait(int(fd), events, 0)
			return n > 0
		}); err != nil {
			return
		}
		for _, e := range events[:n] {
			p.mu.Lock()
			s := p.parked[e.Fd]
			p.mu.Unlock()
			if s != nil {
				s.sock.wake()
			}
		}
	}
}
