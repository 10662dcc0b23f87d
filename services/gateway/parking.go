package gateway

import (
	"errors"
	"log/slog"
	"time"
)

// A goroutine that waits to read holds a stack of 4 KiB, a third of the memory that a member
// needs. So a quiet session is parked: its goroutine ends, and its socket waits with all other
// quiet ones in one epoll instance (parking). It gets a goroutine again when its peer sends
// something, or when the session is about to end.
//
// A member who talks keeps its goroutine, since waiting in Go's own poller costs less per
// message.

const (
	// defaultQuiet is how long a member who has talked keeps its goroutine. To be parked and
	// woken again for a message costs about 60 µs of CPU and 0.8 ms of delay; to keep a goroutine
	// costs 5 KiB. With 2 s, rooms of 4 whose members talk every 5 s cost a third more CPU.
	defaultQuiet = 15 * time.Second
	pauseAfter   = time.Minute // how long nobody is parked after that has failed
)

// parks reports whether the session can be parked at all: it has joined, its connection has a
// descriptor, and parking works.
func (s *session) parks() bool {
	return s.sock.tcp != nil && s.leased() && !s.g.parking.off.Load()
}

// park makes the session wait without a goroutine: if it reports true, the caller's goroutine
// must end. It reports false if the session is about to end or has to keep its goroutine for
// now.
func (s *session) park() bool {
	s.sock.mu.Lock()
	defer s.sock.mu.Unlock()
	if s.sock.endingLocked() {
		return false
	}
	if err := s.g.parking.watch(s); err != nil {
		s.g.parking.pause(err)
		return false
	}
	s.sock.parked = s
	s.g.metrics.parked.Inc()
	return true
}

// calm lets a member be parked if it has not talked for a while and waits for no answer.
func (s *session) calm(now time.Duration) {
	if !s.talks.Load() || !s.parks() || now-time.Duration(s.heardAt.Load()) < s.g.cfg.QuietAfter {
		return
	}
	s.talks.Store(false)
	if _, _, waits := s.outgoing.oldest(s.sentUpTo()); waits {
		s.talks.Store(true)
		return
	}
	s.sock.nudge() // a message that begins meanwhile sets talks again, after it is in outgoing
}

// wake gives a parked session a goroutine again.
func (s *socket) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakeLocked()
}

func (s *socket) wakeLocked() {
	if p := s.parked; p != nil {
		s.parked = nil
		p.g.parking.forget(p)
		p.g.metrics.parked.Dec()
		go p.readLoop()
	}
}

// pause stops the parking of members for a while, or for good if there is no epoll.
func (p *parking) pause(err error) {
	if !p.off.CompareAndSwap(false, true) {
		return
	}
	slog.Info("members keep a goroutine each", "err", err)
	if !errors.Is(err, errors.ErrUnsupported) {
		time.AfterFunc(pauseAfter, func() { p.off.Store(false) })
	}
}
