package gateway

import (
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// This file is about what ends a session by itself: a lease that is not renewed, and a peer
// that is silent for too long.

func (s *session) hear() { s.heardAt.Store(int64(s.g.hub.clock())) }

// hearControl notes that a control frame came. Between the fragments of a message this is no
// sign of life, or else a peer could leave a message unfinished forever.
func (s *session) hearControl() {
	if !s.in.amid {
		s.hear()
	}
}

func (s *session) renewedAt(sent time.Duration) { s.leasedUntil(sent + wire.Lease) }

// leasedUntil extends the lease to end. It never shortens it: a renewal that was delayed takes
// nothing away.
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

// fenceIfLapsed reports whether the lease has ended, which happens when this process is
// stalled. From then on the session neither sends nor receives, until the keeper ends it.
func (s *session) fenceIfLapsed(now time.Duration) bool {
	if !s.lapsed.Load() && s.leaseEnded(now) {
		s.lapsed.Store(true)
		s.sock.fence()
	}
	return s.lapsed.Load()
}

// endsAt returns the clock at which endIfDue ends a session that does not talk, unless its
// lease is renewed or its peer is heard from before.
func (s *session) endsAt() time.Duration {
	at := time.Duration(s.heardAt.Load()) + wire.PeerSilence
	if s.leased() {
		at = min(at, time.Duration(s.leaseUntil.Load())-fence)
	}
	return at
}

// endIfDue ends the session if its lease is about to end without a renewal, if its peer has
// been silent for too long, or if a message has had no answer for too long. It reports whether
// the session ends. suspended says that this process was stalled until now. In that case a
// session whose lease has ended is closed only at the next tick: by then, notices that came
// meanwhile have been read, and one of them, such as that of a takeover, may have given the
// better reason.
func (s *session) endIfDue(now time.Duration, suspended bool) bool {
	switch {
	case s.fenceIfLapsed(now): // that is final, even if a renewal still comes
		if !suspended {
			s.close(wire.CloseLeaseLost)
		}
		return true
	case now-time.Duration(s.heardAt.Load()) >= wire.PeerSilence:
		s.sock.abort()
		return true
	case suspended: // what came meanwhile has not been read yet
		return false
	case s.leaseEnded(now + fence):
		s.close(wire.CloseLeaseLost)
		s.sock.fence() // if it was closed before, as by a takeover, more may wait for a slow reader
		return true
	case s.talks.Load() && s.chaseEcho(now):
		s.close(wire.CloseUnavailable)
		return true
	}
	return false
}
