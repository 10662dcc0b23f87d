package gateway

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
)

// How a seat is given up: by LEAVE, and for who closed or whose join came to nothing.

const (
	leaveTimeout  = 3 * time.Second
	leaveAgain    = time.Second // at least, until a leave that failed is tried again
	maxLeaves     = 64          // of these at a time
	departTimeout = time.Second // for a member's last messages to come back to it
)

// leave gives the seat up before it says so. What the member said before stands in
// the log before, and has come back to it; its own MEMBER_LEFT does not.
func (s *session) leave() {
	if s.leased() {
		s.givingUpSeat.Store(true)
		s.outgoing.wait()
		s.awaitOwnEchoes()
		if err := s.g.giveUp(s.joined.RoomID, s.id); err != nil {
			s.sendError(err, "")
			s.close(wire.CloseUnavailable)
			return
		}
	}
	s.close(wire.CloseNormal)
}

// awaitOwnEchoes takes the member out of the local room once it has its own messages.
func (s *session) awaitOwnEchoes() {
	departed := make(chan struct{})
	s.shard.run(func(sh *shard) {
		if r := sh.rooms[s.joined.RoomID]; r == nil || !r.depart(s, s.outgoing.last(), departed) {
			close(departed)
		}
	})
	patience := time.NewTimer(departTimeout)
	defer patience.Stop()
	select {
	case <-departed:
	case <-patience.C: // the subscription is broken
	case <-s.g.hub.ctx.Done():
	}
}

// giveUp gives up the seat that a session has, or that its join may have got though the
// answer was lost: the room service then refuses that join, should it still be on its way.
// Where that fails it is tried again and again, until a lease has ended by itself. The error
// is that of the first time.
func (g *Gateway) giveUp(roomID, sessionID string) error {
	err := g.leave(context.WithoutCancel(g.hub.ctx), roomID, sessionID)
	if err != nil {
		slog.Debug("cannot give a seat up, trying on", "room", roomID, "err", err) // of each member, in an outage
		g.background.Go(func() { g.giveUpLater(roomID, sessionID) })
	}
	return err
}

func (g *Gateway) giveUpLater(roomID, sessionID string) {
	ctx, cancel := context.WithTimeout(g.hub.ctx, wire.Lease)
	defer cancel()
	for pause(ctx, leaveAgain+rand.N(leaveAgain)) {
		done, err := g.leaveSlots.acquire(ctx, wire.Lease)
		if err != nil {
			return
		}
		err = g.leave(ctx, roomID, sessionID)
		done()
		if err == nil {
			return
		}
	}
}

// leave gives a seat up in a session's name.
func (g *Gateway) leave(ctx context.Context, roomID, sessionID string) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	_, err := g.cfg.Rooms.Leave(ctx, &roomv1.LeaveRequest{
		RoomId: roomID, SessionId: sessionID, Reason: roomv1.LeaveReason_LEAVE_REASON_LEFT, Ended: true,
	})
	return err
}
