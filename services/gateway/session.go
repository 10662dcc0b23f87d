package gateway

import (
	"crypto/rand"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/time/rate"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// session is one WebSocket connection, both before and after its join is confirmed.
type session struct {
	// Deliveries, and the keeper whenever it looks at a session, read these fields. They are
	// grouped because there are many sessions, and reading scattered memory is slow.
	sock         *socket
	hasUpTo      int64        // owned by the shard: entries up to this seq are not sent to this member
	heardAt      atomic.Int64 // clock when the peer was last heard from
	leaseUntil   atomic.Int64 // clock when the lease ends; 0 before the join
	lapsed       atomic.Bool  // the lease has ended: nothing is sent or accepted any more
	talks        atomic.Bool  // has sent something lately, or waits for an echo: it keeps its goroutine
	givingUpSeat atomic.Bool  // is giving up its seat: a renewal that finds the seat gone is no news

	g  *Gateway
	ws *websocket.Conn
	id string

	// Set before the join is complete and not changed afterwards, except that exitHub resets
	// shard.
	joined  wire.Joined // without the members and the identity
	from    []byte      // this member as JSON
	shard   *shard
	group   uint32 // number of the session's group in the hub
	counted bool   // the room's presence is count

	// Owned by the shard.
	slot     int           // index among the members of the local room
	until    int64         // of a departing member: the seq that it still gets before it is removed
	departed chan struct{} // of a departing member: closed when it is out of the local room

	// Owned by the reading goroutine.
	cohort   *cohort       // where the keeper has it
	messages *rate.Limiter // nil until it is first used
	in       incoming

	outgoing outgoing                  // its messages that have no answer yet
	room     atomic.Pointer[localRoom] // nil until it is a member
}

func (s *session) init() {
	s.id = rand.Text()
	s.hear()
}

// talking makes the keeper look at the session at every tick.
func (s *session) talking() {
	s.talks.Store(true)
	if !s.cohort.talks.Load() { // check first: other sessions share this memory
		s.cohort.talks.Store(true)
	}
}

// send sends frames unless the lease has ended. It reports false if the socket sends nothing
// any more.
func (s *session) send(frames []byte) bool {
	return !s.fenceIfLapsed(s.g.hub.clock()) && s.sock.send(frames)
}

// close closes the session with code. Any goroutine may call it.
func (s *session) close(code wire.CloseCode) { s.sock.closeWith(code) }

// run starts the session and carries out the join that the URL asked for, if ask is not nil.
// It then starts the goroutine that reads, which keeps neither the request nor the server's
// buffers in memory.
func (s *session) run(ask *wire.ClientFrame) {
	whole := false
	defer func() {
		if !whole { // a panic: the HTTP server recovers from it, but the socket must be closed
			s.close(wire.CloseInternal)
		}
		go s.readLoop()
	}()
	s.g.metrics.sockets.Inc()
	s.g.keeper.add(s)
	s.sock.readBy(time.Now().Add(wire.JoinTimeout))
	if s.g.moving.Load() {
		s.turnAway()
	}
	if ask != nil && s.sock.closeCode() == 0 {
		if err := s.joinByURL(ask); err != nil {
			s.refuseJoin(err)
		}
	}
	whole = true
}

// turnAway refuses a join while members are being moved away: the new member would have to
// move at once.
func (s *session) turnAway() {
	s.sendError(errMoving, "")
	s.close(wire.CloseRestart)
}

// handle carries out one text frame. It does not keep data.
func (s *session) handle(data []byte) error {
	lapsed := s.fenceIfLapsed(s.g.hub.clock())
	var f wire.ClientFrame
	if err := wire.ParseClientFrame(data, &f); err != nil {
		if errors.Is(err, wire.ErrNotUTF8) {
			s.close(wire.CloseInvalidText)
			return nil
		}
		if f.Type == wire.TypeJoin && !s.leased() {
			s.refuseJoin(err)
			return nil
		}
		if f.Known() {
			s.rejectFrame(err, f.ID)
		} else {
			s.rejectMalformed(err, f.ID)
		}
		return nil
	}
	if lapsed && f.Type != wire.TypeLeave {
		return nil // the close is the answer
	}
	switch f.Type {
	case wire.TypeJoin:
		if s.leased() {
			s.rejectFrame(wire.Errorf(wire.BadRequest, "this socket has joined room %s already", s.joined.RoomID), "")
			return nil
		}
		if s.g.moving.Load() {
			s.turnAway()
			return nil
		}
		if err := s.join(&f, false); err != nil {
			s.refuseJoin(err)
		}
	case wire.TypeMessage:
		s.message(&f)
	case wire.TypePing:
		s.in.meter.spend(1) // like any ping, it is answered, and a flood of them is read slowly
		s.send(appendFrame(nil, wire.PongFrame()))
	case wire.TypeLeave:
		s.leave()
	}
	return nil
}

// rejectFrame sends ERROR for a frame that was understood but not accepted. The frame counts
// toward the message rate, and as a refused message toward the frame rate.
func (s *session) rejectFrame(err error, id string) {
	s.in.meter.throttle(1)
	if s.spendMessage(id) {
		s.sendError(err, id)
	}
}

// rejectMalformed sends ERROR for a frame that could not be understood. The tenth one closes
// the socket.
func (s *session) rejectMalformed(err error, id string) {
	s.sendError(err, id)
	if s.in.malformed++; s.in.malformed >= wire.MaxMalformedFrames {
		s.close(wire.CloseBadRequest)
	}
}

// sendError sends err to the client as an ERROR frame. id names the message that it is about,
// if any.
func (s *session) sendError(err error, id string) {
	s.send(appendFrame(nil, wire.ErrorFrame(wire.AsError(err), id)))
}

// spendMessage takes one message from the session's allowance and reports whether there was
// one left. If not, it sends RATE_LIMITED, and closes a session that goes on for too long. The
// limiter is made on first use, since many sessions never need one.
func (s *session) spendMessage(id string) bool {
	perSecond := rate.Limit(s.g.cfg.MessageRate)
	if perSecond == 0 {
		return true
	}
	if s.messages == nil {
		s.messages = rate.NewLimiter(perSecond, s.g.cfg.MessageBurst)
	}
	if s.messages.Allow() {
		return true
	}
	s.sendError(wire.Errorf(wire.RateLimited, "more than %v messages/s", s.g.cfg.MessageRate), id)
	s.flooding()
	s.in.meter.throttle(1)
	return false
}

// end takes the session out of its room. If the peer closed with 1000, 1001 or no code, and
// this side had not closed before, the seat is given up before the peer's close frame is
// answered. Otherwise, as when the connection broke, the seat stays taken until the lease ends,
// unless it was given up before.
func (s *session) end(err error) {
	peer := websocket.CloseStatus(err)
	switch peer {
	case websocket.StatusNormalClosure, websocket.StatusGoingAway, websocket.StatusNoStatusRcvd:
		if s.leased() && s.sock.closeCode() == 0 {
			s.givingUpSeat.Store(true)
			s.outgoing.wait()
			_ = s.g.giveUp(s.joined.RoomID, s.id) // it is retried in the background if it fails
		}
	}
	s.sock.answerClose()
	s.g.metrics.closes.With(closeLabel(s.sock.closeCode())).Inc()
	if s.shard != nil {
		s.shard.run(func(sh *shard) {
			if r := sh.rooms[s.joined.RoomID]; r != nil {
				r.remove(s)
			}
		})
	}
	s.exitHub()
}

// closeLabel returns the name of a close in metrics. Peers may close with any code: those that
// have no name share one label, so that they cannot create any number of series.
func closeLabel(code wire.CloseCode) string {
	switch name := code.String(); {
	case code == 0:
		return closeBroken
	case strings.HasPrefix(name, "CLOSE_"):
		return closeOther
	default:
		return name
	}
}
