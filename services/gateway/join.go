package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
)

const (
	followTimeout  = 3 * time.Second
	confirmTimeout = 5 * time.Second
	repeatedAfter  = 250 * time.Millisecond // a ConfirmJoin takes a few milliseconds
)

// errGone is of a join whose peer broke off meanwhile.
var errGone = errors.New("the peer is gone")

// joinOf reads the join that a URL asks for, nil for none. One that names neither room nor
// permit, though it has a parameter for it, is a JOIN without a room.
func joinOf(r *http.Request) *wire.ClientFrame {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return &wire.ClientFrame{Type: wire.TypeJoin} // a JOIN without a room: BAD_REQUEST, as over HTTP
	}
	if !q.Has("roomId") && !q.Has("permit") {
		return nil
	}
	return &wire.ClientFrame{
		Type: wire.TypeJoin, RoomID: q.Get("roomId"), Permit: q.Get("permit"),
		Identity: q.Get("identity"), Nickname: q.Get("nickname"),
	}
}

// joinAsked carries out the join that the URL asked for.
func (s *session) joinAsked() {
	f := s.ask
	s.ask = nil
	if err := s.joinByURL(f); err != nil {
		s.refuseJoin(err)
	}
}

func (s *session) joinByURL(f *wire.ClientFrame) error {
	byPermit := f.RoomID == "" && f.Permit != ""
	if f.Permit != "" { // which may be any bytes here
		roomID, _, err := wire.SplitPermit(f.Permit)
		if err != nil {
			return err
		}
		if byPermit {
			f.RoomID = roomID
		}
	}
	if err := f.CheckJoin(); err != nil {
		return err
	}
	err := s.join(f)
	if byPermit && errors.Is(err, &wire.Error{Code: wire.RoomNotFound}) {
		// The client has shown a permit and named no room: what it has is good for nothing.
		return wire.Errorf(wire.PermitExpired, "the permit was used or lapsed, and its room is gone")
	}
	return err
}

// refuseJoin tells why, and ends the socket with the code that goes with it.
func (s *session) refuseJoin(err error) {
	if errors.Is(err, errGone) { // nobody hears it, and the next read ends the session
		s.g.metrics.joins.With(joinGone).Inc()
		return
	}
	e := wire.AsError(err)
	if e.Code == wire.Internal {
		slog.Error("join failed", "err", err)
	}
	s.g.metrics.joins.With(string(e.Code)).Inc()
	s.refuse(e, "")
	s.close(e.Code.Translate().Close)
}

// join makes this socket a session of a room.
func (s *session) join(f *wire.ClientFrame) error {
	s.sock.readBy(time.Time{})
	user, nickname, made, err := s.who(f)
	if err != nil {
		return err
	}
	f.RoomID = strings.Clone(f.RoomID) // which may be a piece of the whole URL
	sh, group, followed := s.g.hub.enter(f.RoomID)
	s.group = group
	s.g.keeper.group(s, group)
	s.joined.RoomID = f.RoomID
	if err := s.confirm(f, sh, followed, user, nickname, made); err != nil {
		sh.run(func(sh *shard) { sh.settled(f.RoomID) })
		s.g.hub.exit(f.RoomID, group)
		return err
	}
	s.g.metrics.joins.With(joinOK).Inc()
	return nil
}

// who finds out who joins. Without an identity or a permit it makes an identity, which
// JOINED brings to the client; made is empty otherwise.
func (s *session) who(f *wire.ClientFrame) (user, nickname, made string, err error) {
	if f.Identity != "" {
		id, err := s.g.cfg.Identities.Verify(f.Identity)
		if err != nil {
			return "", "", "", err
		}
		if f.Nickname == "" && f.Permit == "" {
			return id.UserID, id.Nickname, "", nil
		}
		return id.UserID, f.Nickname, "", nil
	}
	if f.Permit != "" {
		return "", f.Nickname, "", nil
	}
	made, id, err := s.g.cfg.Identities.Make(f.Nickname)
	return id.UserID, f.Nickname, made, err
}

// confirm follows the room, takes the seat, and lets the member in behind what was missed.
func (s *session) confirm(f *wire.ClientFrame, sh *shard, followed <-chan struct{}, user, nickname, made string) error {
	timeout := time.NewTimer(followTimeout)
	defer timeout.Stop()
	select {
	case <-followed:
	case <-timeout.C:
		return wire.Errorf(wire.Unavailable, "the room's channel is out of reach")
	}
	// This process, or Redis, may have stood still until the user had long joined elsewhere,
	// and would lose that seat to a join that nobody waits for.
	if s.gone() {
		return errGone
	}
	deadline := s.g.redisTime(confirmTimeout) // no later than ctx ends
	ctx, cancel := context.WithTimeout(s.g.hub.ctx, confirmTimeout)
	defer cancel()
	sent := s.g.hub.clock()
	resp, err := s.g.cfg.Rooms.ConfirmJoin(ctx, &roomv1.ConfirmJoinRequest{
		RoomId: f.RoomID, Permit: f.Permit, UserId: user, Nickname: nickname,
		SessionId: s.id, GatewayId: s.g.cfg.ID, OwnSeatOnly: f.Permit == "" && !s.g.cfg.WalkIn,
		Deadline: deadline,
	})
	if err != nil {
		// A call that took so long was repeated, and the first one may yet be carried out,
		// though the repeated one was refused.
		repeated := s.g.hub.clock()-sent > repeatedAfter
		if code := wire.CodeOf(err); repeated || code == wire.Unavailable || code == wire.Internal {
			s.giveUpJoin(ctx, f.RoomID, repeated)
		}
		return err
	}
	s.shard = sh
	s.take(resp, made)
	s.renewedAt(sent)
	s.enter(f.After, resp)
	return nil
}

// giveUpJoin gives up the seat that a join may have got though its answer was lost. Where a
// call of it may still be on its way, it returns once that cannot be carried out any
// more, since the client that is told of the error joins again: as soon as the session
// is known to have ended, and when ctx ends, with which a call that has a deadline is too
// late.
func (s *session) giveUpJoin(ctx context.Context, roomID string, onItsWay bool) {
	ended := make(chan struct{})
	s.g.background.Go(func() {
		if s.g.giveUp(roomID, s.id) == nil {
			close(ended)
		}
	})
	if !onItsWay {
		return
	}
	select {
	case <-ended:
	case <-ctx.Done():
	}
}

// take keeps what the session needs of its join. made is the identity that JOINED brings.
func (s *session) take(resp *roomv1.ConfirmJoinResponse, made string) {
	r := resp.GetRoom()
	me := wire.Member{UserID: resp.GetMember().GetUserId(), Nickname: resp.GetMember().GetNickname()}
	s.from = me.Encode()
	s.counted = r.GetPresence() == roomv1.Presence_PRESENCE_COUNT
	s.joined = wire.Joined{
		RoomID: r.GetRoomId(), Epoch: r.GetEpoch(), Seq: resp.GetSeq(), UserID: me.UserID, SessionID: s.id,
		Identity: made, Capacity: int(r.GetCapacity()), Occupied: int(r.GetOccupied()),
	}
	s.outgoing.carry(s.joined.Seq + 1)
}
