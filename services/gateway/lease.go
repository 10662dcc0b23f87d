package gateway

import (
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// What ends a session by itself: a lease that is not renewed, and a peer that says nothing
// any more.

func (s *session) hear() { s.heardAt.Store(int64(s.g.hub.clock())) }

// hearControl hears a control frame. Between the fragments of a message it is no sign
// of life: else a peer could leave a message unfinished for ever.
func (s *session) hearControl() {
	if !s.in.amid {
		s.hear()
	}
}

func (s *session) renewedAt(sent time.Duration) { s.leasedUntil(sent + wire.Lease) }

// leasedUntil never makes a lease shorter: a renewal that was held up takes nothing away.
func (s *session) leasedUntil(end time.Duration) {
	for until := s.leaseUntil.Load(); until < int64(end) && !s.leaseUntil.CompareAndSwap(until, int64(end)); {
		until = s.leaseUntil.Load()
	}
}

func (s *session) leased() bool { return s.leaseUntil.Load() != 0 }

func (s *session) leaseEnded(now time.Duration) bool {
	until := s.leaseUntil.Load()
	return until != 0 && int64(now) >= until
}

// fenceIfLapsed reports whether the lease has ended, as it does where this process stood still.
// From then on the session neither sends nor receives, until the keeper ends it.
func (s *session) fenceIfLapsed(now time.Duration) bool {
	if !s.lapsed.Load() && s.leaseEnded(now) {
		s.lapsed.Store(true)
		s.sock.fence()
	}
	return s.lapsed.Load()
}

// endsAt is the clock at which endIfDue ends a session that does not talk, unless its lease
// is renewed, or its peer heard of.
func (s *session) endsAt() time.Duration {
	at := time.Duration(s.heardAt.Load()) + wire.PeerSilence
	if s.leased() {
		at = min(at, time.Duration(s.leaseUntil.Load())-fence)
	}
	return at
}

// endIfDue closes the session when its lease is about to end without a renewal, or its
// peer has been silent for too long. suspended says that this process stood still until now: for
// its lease, the session is closed at the next tick only, when a notice that came meanwhile,
// such as that it was taken over, has been read and has given the better reason.
func (s *session) endIfDue(now time.Duration, suspended bool) bool {
	switch {
	case s.fenceIfLapsed(now): // for good, though a renewal may yet come in
		if !suspended {
			s.close(wire.CloseLeaseLost)
		}
		return true
	case now-time.Duration(s.heardAt.Load()) >= wire.PeerSilence:
		s.sock.abort()
		return true
	case suspended: // what came meanwhile is only being read
		return false
	case s.leaseEnded(now + fence):
		s.close(wire.CloseLeaseLost)
		return true
	case s.talks.Load() && s.chaseEcho(now):
		s.close(wire.CloseUnavailable)
		return true
	}
	return false
}
