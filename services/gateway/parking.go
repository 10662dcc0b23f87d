package gateway

import (
	"errors"
	"log/slog"
	"time"
)

// A goroutine that waits to read holds a stack of 4 KiB, a third of what a member needs.
// So a session that says nothing is parked: its goroutine ends, and its socket waits with
// all others that are quiet in one epoll instance (parking). What its peer sends, or
// whatever is about to end it, gets it a goroutine again.
//
// A member who talks keeps its goroutine, since waiting in Go's own poller costs less a
// message.

const (
	quietAfter = 2 * time.Second // a member who has talked keeps its goroutine for so long
	pauseAfter = time.Minute     // nobody is parked for so long where it did not work
)

// errQuiet ends a read that would have to wait.
var errQuiet = errors.New("nothing to read")

// parks reports whether the session is one that can be parked at all: a member, on a
// connection that the kernel knows.
func (s *session) parks() bool {
	return s.sock.tcp != nil && s.leased() && !s.g.parking.off.Load()
}

// park makes the session wait without a goroutine: the caller's is to end. It reports
// false where the session is about to end, or has to keep its goroutine for now.
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

// calm lets a member be parked that has not talked for a while, and waits for nothing.
func (s *session) calm(now time.Duration) {
	if !s.talks.Load() || !s.parks() || now-time.Duration(s.heardAt.Load()) < quietAfter {
		return
	}
	s.talks.Store(false)
	if _, _, waits := s.outgoing.oldest(s.sentUpTo()); waits {
		s.talks.Store(true)
		return
	}
	s.sock.nudge() // what is said meanwhile sets talks again, behind its place in outgoing
}

// nudge ends a read that waits, or the next one, for the session to be parked.
func (s *socket) nudge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.endingLocked() && s.parked == nil {
		s.nudged = true
		_ = s.nc.SetReadDeadline(time.Unix(1, 0))
	}
}

// takeNudge reports whether it was nudge that ended a read, and undoes it.
func (s *socket) takeNudge() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	nudged := s.nudged
	s.nudged = false
	if nudged && !s.endingLocked() {
		_ = s.nc.SetReadDeadline(time.Time{})
	}
	return nudged
}

// wake gets a parked session a goroutine again.
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

// pause lets members keep their goroutines for a while, or for good where there is no epoll.
func (p *parking) pause(err error) {
	if !p.off.CompareAndSwap(false, true) {
		return
	}
	slog.Info("members keep a goroutine each", "err", err)
	if !errors.Is(err, errors.ErrUnsupported) {
		time.AfterFunc(pauseAfter, func() { p.off.Store(false) })
	}
}
