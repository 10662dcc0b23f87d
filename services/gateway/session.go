package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/time/rate"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// session is one WebSocket: before its join was confirmed, and after.
type session struct {
	// What deliveries and each tick of the keeper look at stands together: there are many
	// sessions.
	sock         *socket
	since        int64        // of the shard: seqs up to this one are not for this member
	heardAt      atomic.Int64 // clock when something came last
	leaseUntil   atomic.Int64 // clock when the lease ends; 0 before the join
	lapsed       atomic.Bool  // the lease has ended: nothing is sent or taken any more
	talks        atomic.Bool  // has talked lately, or waits for an echo: it keeps its goroutine
	givingUpSeat atomic.Bool  // is giving its seat up: that it holds none any more is no news

	g  *Gateway
	ws *websocket.Conn
	id string

	// Set before the join is complete, never changed after; shard is taken back where it fails.
	joined  wire.Joined // without members and identity
	from    []byte      // this member's JSON
	shard   *shard
	group   uint32 // of the hub
	counted bool   // presence is count

	// Owned by the shard.
	slot     int           // index among the members of the local room
	until    int64         // of a member that leaves: the last seq for it
	departed chan struct{} // of a member that leaves: closed when it is out of the local room

	// Owned by the reading goroutine.
	cohort   *cohort       // of the keeper
	messages *rate.Limiter // nil before the first
	in       incoming

	outgoing outgoing                  // its messages
	room     atomic.Pointer[localRoom] // once it is a member
}

func (s *session) init() {
	s.id = rand.Text()
	s.hear()
}

// talking tells the keeper to look at every tick.
func (s *session) talking() {
	s.talks.Store(true)
	if !s.cohort.talks.Load() { // which others' memory is not written for
		s.cohort.talks.Store(true)
	}
}

// send sends frames while the lease lives.
func (s *session) send(frames []byte) bool {
	return !s.fenceIfLapsed(s.g.hub.clock()) && s.sock.send(frames)
}

// close ends the session with a code, from any goroutine.
func (s *session) close(code wire.CloseCode) { s.sock.closeWith(code) }

// run is the session's beginning, with the join that the URL asked for, if any. A goroutine
// of its own goes on from there, which holds neither the request nor the server's buffers.
func (s *session) run(ask *wire.ClientFrame) {
	whole := false
	defer func() {
		if !whole { // a panic, which the HTTP server survives: the socket must end all the same
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

// turnAway sends one who would join elsewhere: here it would have to move at once.
func (s *session) turnAway() {
	s.sendError(errMoving, "")
	s.close(wire.CloseRestart)
}

// readLoop reads until the socket ends, or the session is parked.
func (s *session) readLoop() {
	var err error
	for err == nil {
		err = s.readFrame()
		if errors.Is(err, errQuiet) {
			if s.park() {
				return
			}
			err = nil
		}
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && !s.leased():
		s.close(wire.CloseJoinTimeout)
	case s.broken(err):
		s.close(wire.CloseProtocolError)
	}
	s.end(err)
	s.sock.finish(websocket.CloseStatus(err) != -1)
	s.g.keeper.remove(s)
	_ = s.ws.CloseNow()
	s.g.metrics.sockets.Dec()
	s.g.ended()
}

// broken reports whether reading ended because of a frame that breaks RFC 6455. It did not
// where the connection ended, where the peer closed, or where the library gave up on a
// control frame that took longer than 5 s.
func (s *session) broken(err error) bool {
	return !s.in.cut && websocket.CloseStatus(err) == -1 &&
		!errors.Is(err, net.ErrClosed) && !errors.Is(err, context.DeadlineExceeded)
}

// frames keeps buffers for what is being read: a socket that is silent holds none.
var frames = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// readFrame reads one frame and carries it out. Once this side has closed, it only
// waits for the peer to do so too.
func (s *session) readFrame() error {
	kind, r, err := s.ws.Reader(context.Background())
	if err != nil {
		return err
	}
	s.hear()
	s.talking()
	s.in.unread = false // what is left of it is buffered
	s.in.amid = true
	defer func() { s.in.amid = false }()
	if s.sock.closeCode() != 0 {
		s.in.meter.throttle(1) // who floods does not do so faster for being closed
		return discard(r)
	}
	if kind != websocket.MessageText {
		s.close(wire.CloseUnsupported)
		return discard(r)
	}
	buf := frames.Get().(*bytes.Buffer)
	defer frames.Put(buf)
	buf.Reset()
	switch n, err := buf.ReadFrom(io.LimitReader(r, int64(s.g.cfg.MaxFrameBytes)+1)); {
	case err != nil:
		return err
	case n > int64(s.g.cfg.MaxFrameBytes):
		s.close(wire.CloseTooBig)
		return discard(r)
	}
	s.in.amid = false
	return s.handle(buf.Bytes())
}

// discard reads what is left of a message, within reason.
func discard(r io.Reader) error {
	n, err := io.Copy(io.Discard, io.LimitReader(r, lingerBytes))
	if err == nil && n == lingerBytes {
		return errors.New("the peer sends on and on after the close")
	}
	return err
}

// handle carries out one text frame. data is the caller's again afterwards.
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
		if err := s.join(&f); err != nil {
			s.refuseJoin(err)
		}
	case wire.TypeMessage:
		s.message(&f)
	case wire.TypePing:
		s.in.meter.spend(1) // as any ping: it is answered, and a flood of them read slowly
		s.send(appendFrame(nil, wire.PongFrame()))
	case wire.TypeLeave:
		s.leave()
	}
	return nil
}

// rejectFrame answers to a frame that was understood and is not accepted. It counts for the
// rate as a message does, and for that of refused ones.
func (s *session) rejectFrame(err error, id string) {
	s.in.meter.throttle(1)
	if s.spendMessage(id) {
		s.sendError(err, id)
	}
}

// rejectMalformed answers to a frame that could not be understood; the tenth ends the socket.
func (s *session) rejectMalformed(err error, id string) {
	s.sendError(err, id)
	if s.in.malformed++; s.in.malformed >= wire.MaxMalformedFrames {
		s.close(wire.CloseBadRequest)
	}
}

// sendError tells the client of an error.
func (s *session) sendError(err error, id string) {
	s.send(appendFrame(nil, wire.ErrorFrame(wire.AsError(err), id)))
}

// spendMessage takes one message from the allowance, and closes one who floods on. The
// allowance is made when it is used first: many never are.
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

// end takes the session out of its room. A peer that closed by itself gives the seat
// up, and hears our answer only then; one that broke off keeps it until the lease ends.
func (s *session) end(err error) {
	peer := websocket.CloseStatus(err)
	switch peer {
	case websocket.StatusNormalClosure, websocket.StatusGoingAway, websocket.StatusNoStatusRcvd:
		if s.leased() && s.sock.closeCode() == 0 {
			s.givingUpSeat.Store(true)
			s.outgoing.wait()
			_ = s.g.giveUp(s.joined.RoomID, s.id) // which is tried on
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

// closeLabel names a close in metrics. Peers close with any code they like, which must
// not make as many metrics.
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
