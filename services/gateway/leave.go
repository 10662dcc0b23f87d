package gateway

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
)

// This file is about how a seat is given up: by LEAVE, when the client closes, and when a join
// fails.

const (
	leaveTimeout  = 3 * time.Second
	leaveAgain    = time.Second // until a failed leave is tried again, at least
	maxLeaves     = 64          // failed leaves that are tried again at a time
	departTimeout = time.Second // for a member's last messages to come back to it
)

// leave gives the seat up and then closes the socket. The member's earlier messages come
// before that in the log, and it is sent their echoes. It is not sent its own MEMBER_LEFT.
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

// awaitOwnEchoes takes the member out of the local room once it has its own messages, and
// waits for that.
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

// giveUp gives up the seat that a session has, or that its join may have got although the
// answer was lost. If that join is still on its way, the room service then refuses it. If the
// first try fails, giveUp returns its error and goes on trying in the background, until the
// lease has ended by itself.
func (g *Gateway) giveUp(roomID, sessionID string) error {
	err := g.leave(context.WithoutCancel(g.hub.ctx), roomID, sessionID)
	if err != nil {
		slog.Debug("cannot give a seat up, trying on", "room", roomID, "err", err) // in an outage, once for each member
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

// leave gives up a seat in the name of a session.
func (g *Gateway) leave(ctx context.Context, roomID, sessionID string) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	_, err := g.cfg.Rooms.Leave(ctx, &roomv1.LeaveRequest{
		RoomId: roomID, SessionId: sessionID, Reason: roomv1.LeaveReason_LEAVE_REASON_LEFT, Ended: true,
	})
	return err
}
