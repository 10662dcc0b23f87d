package gateway

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// mostPatience is how long a message waits for others at most. Members on other shards and
// gateways, where the room may not be resting, wait for it too.
const mostPatience = 4 * time.Millisecond

// message publishes a MESSAGE to the room's log. The sender's answer is its echo, the entry
// that comes back from the log.
func (s *session) message(f *wire.ClientFrame) {
	if !s.leased() {
		s.rejectFrame(wire.Errorf(wire.BadRequest, "JOIN comes before MESSAGE"), f.ID)
		return
	}
	if !s.spendMessage(f.ID) {
		return
	}
	id := f.ID
	tail := wire.MessageTail(s.from, id, f.Body)
	now := s.g.hub.clock()
	m := s.outgoing.begin(id, now, s.sentUpTo())
	s.talking() // so that the keeper checks that the echo comes
	s.g.publisher.Publish(&roomlog.Message{
		RoomID: s.joined.RoomID, Epoch: s.joined.Epoch, Session: s.id, User: s.joined.UserID, ID: id, Tail: tail,
		MayWaitUntil: s.mayWaitUntil(now),
		Done:         func(r roomlog.Result) { s.published(m, tail, r) },
	})
}

// mayWaitUntil returns the time until which a message may wait for others that share its round
// trip. While its room rests, the sender would not get it back sooner. Zero means not at all.
func (s *session) mayWaitUntil(now time.Duration) (until time.Time) {
	if r := s.room.Load(); r != nil {
		if rest := r.rests(now); rest > 0 {
			until = time.Now().Add(min(rest, mostPatience))
		}
	}
	return until
}

// published answers the sender of a message if its echo will not.
func (s *session) published(m *outMessage, tail []byte, r roomlog.Result) {
	result := messageOK
	switch {
	case errors.Is(r.Err, roomlog.ErrNoSeat):
		result = messageNoSeat
		s.g.keeper.verify(s) // the close is the answer
		s.outgoing.unknown()
	case r.Err != nil:
		e := wire.AsError(r.Err)
		if e.Code == wire.Internal {
			slog.Error("message failed", "room", s.joined.RoomID, "err", r.Err)
		}
		result = string(e.Code)
		s.sendError(e, m.id)
		s.outgoing.answered(m)
	default:
		comes := s.outgoing.appended(m, r.Seq)
		switch {
		case r.Duplicate && !comes:
			s.g.background.Go(func() { s.repeatEcho(r.Seq, r.Time, tail) })
		case !comes:
			s.echoLost(m)
		}
		if r.Duplicate {
			result = messageDuplicate
		}
	}
	s.g.metrics.messages.With(result).Inc()
}

// skip answers the messages whose echoes are in the range of a GAP.
func (s *session) skip(from, to int64) {
	for _, m := range s.outgoing.skip(from, to) {
		s.echoLost(m)
	}
}

// echoLost answers a message whose echo is in a GAP. A client that sends it again gets the
// echo.
func (s *session) echoLost(m *outMessage) {
	s.sendError(wire.Errorf(wire.Unavailable, "the message's echo is not kept any more"), m.id)
}

// chaseEcho makes the room read its log if the echo of a message is late although the message
// is in the log. It reports true if a message has had no answer at all for 10 s.
func (s *session) chaseEcho(now time.Duration) bool {
	r := s.room.Load()
	if r == nil {
		return false
	}
	sent, seq, ok := s.outgoing.oldest(r.sentUpTo.Load())
	if !ok {
		return false
	}
	if seq > 0 && now-sent >= echoLate {
		r.shard.run(func(*shard) {
			if r.last < seq {
				r.read()
			}
		})
	}
	return now-sent >= wire.EchoTimeout
}

// sentUpTo returns the seq up to which this session was sent the log, 0 if that is not known.
func (s *session) sentUpTo() int64 {
	if r := s.room.Load(); r != nil {
		return r.sentUpTo.Load()
	}
	return 0
}

// repeatEcho acknowledges a message that was sent again, whose entry in the log is not among
// those that this socket carries.
func (s *session) repeatEcho(seq int64, at time.Time, tail []byte) {
	ctx, cancel := context.WithTimeout(s.g.hub.ctx, readTimeout)
	defer cancel()
	found, err := s.g.hub.readLog(ctx, s.joined.RoomID, seq, seq)
	if err != nil {
		s.close(wire.CloseUnavailable)
		return
	}
	if len(found.Entries) == 1 && found.Epoch == s.joined.Epoch {
		s.send(appendFrame(nil, found.Entries[0].Frame))
		return
	}
	// History does not reach back to the entry any more: make its frame from what is known.
	s.send(appendFrame(nil, wire.MessageFrame(seq, at, tail)))
}
