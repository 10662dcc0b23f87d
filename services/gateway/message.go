package gateway

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// maxInflight is how many messages of a session may be on their way to Redis: one who
// sends faster than Redis takes is read more slowly.
const maxInflight = 64

// inflight counts messages on their way.
type inflight struct {
	mu      sync.Mutex
	n       int
	changed chan struct{} // closed when one is done; nil while nobody waits
}

// begin counts one more, once there is room for it.
func (f *inflight) begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.untilLocked(maxInflight - 1)
	f.n++
}

// wait returns once all are done: the publisher sees to it within seconds.
func (f *inflight) wait() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.untilLocked(0)
}

// untilLocked returns once there are n at most.
func (f *inflight) untilLocked(n int) {
	for f.n > n {
		if f.changed == nil {
			f.changed = make(chan struct{})
		}
		changed := f.changed
		f.mu.Unlock()
		<-changed
		f.mu.Lock()
	}
}

func (f *inflight) done() {
	f.mu.Lock()
	f.n--
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
	f.mu.Unlock()
}

// message puts a MESSAGE on its way into the room's log. Its echo is the answer.
func (s *session) message(f *wire.ClientFrame) {
	if !s.leased() {
		s.malform(wire.Errorf(wire.BadRequest, "JOIN comes before MESSAGE"), f.ID)
		return
	}
	if !s.allowed(f.ID) {
		return
	}
	id := f.ID
	tail := wire.MessageTail(s.from, id, f.Body)
	sent := s.g.hub.clock()
	s.inflight.begin()
	s.g.publisher.Publish(&roomlog.Message{
		RoomID: s.joined.RoomID, Epoch: s.joined.Epoch, Session: s.id, User: s.joined.UserID, ID: id, Tail: tail,
		Done: func(r roomlog.Result) {
			s.published(id, tail, r, sent)
			s.inflight.done()
		},
	})
}

// published answers where the log will not.
func (s *session) published(id string, tail []byte, r roomlog.Result, sent time.Duration) {
	result := "ok"
	switch {
	case errors.Is(r.Err, roomlog.ErrNoSeat):
		result = "no_seat"
		s.g.keeper.verify(s)
	case r.Err != nil:
		e := wire.AsError(r.Err)
		if e.Code == wire.Internal {
			slog.Error("message failed", "room", s.joined.RoomID, "err", r.Err)
		}
		result = string(e.Code)
		s.refuse(e, id)
	case r.Duplicate:
		result = "duplicate"
		if r.Seq < s.first {
			s.g.background.Go(func() { s.repeatEcho(r.Seq, tail) })
		}
	default:
		s.said.Store(r.Seq) // a room's messages are appended one after the other
		if s.owed.Load() == nil {
			s.owed.Store(&echo{r.Seq, sent})
		}
	}
	s.g.metrics.messages.WithLabelValues(result).Inc()
}

// echoLate is when an echo that has not come is looked for in the log.
const echoLate = time.Second

// owesEcho sees to it that a message that stands in the log comes to its sender: it is
// read from there when it is late. It reports true when it has not come for 10 s.
func (s *session) owesEcho(now time.Duration) bool {
	e, r := s.owed.Load(), s.room.Load()
	if e == nil || r == nil {
		return false
	}
	if r.given.Load() >= e.seq {
		s.owed.Store(nil) // the next one is watched instead
		return false
	}
	if now-e.sent >= echoLate {
		r.shard.run(func(*shard) {
			if r.last < e.seq {
				r.read()
			}
		})
	}
	return now-e.sent >= wire.EchoTimeout
}

// repeatEcho acknowledges a message that stands in the log before anything that this socket
// carries, so that its sender, who repeats it, hears of it.
func (s *session) repeatEcho(seq int64, tail []byte) {
	ctx, cancel := context.WithTimeout(s.g.hub.ctx, readTimeout)
	defer cancel()
	found, err := s.g.hub.readLog(ctx, s.joined.RoomID, seq, seq)
	if err != nil {
		s.close(wire.CloseUnavailable)
		return
	}
	if len(found.Entries) == 1 && found.Epoch == s.joined.Epoch {
		s.sock.send(appendFrame(nil, found.Entries[0].Frame))
		return
	}
	// History does not reach back to it any more: what is known of it is enough.
	s.sock.send(appendFrame(nil, wire.MessageFrame(seq, time.Now(), tail)))
}
