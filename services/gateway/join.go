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

// joinByURL carries out the join that a URL asked for.
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
	s.sendError(e, "")
	s.close(e.Code.Translate().Close)
}

// join makes this socket a session of a room: it follows the room, takes the seat, and lets
// the member in behind what was missed.
func (s *session) join(f *wire.ClientFrame) (err error) {
	s.sock.readBy(time.Time{})
	who, err := s.whoJoins(f)
	if err != nil {
		return err
	}
	f.RoomID = strings.Clone(f.RoomID) // which may be a piece of the whole URL
	followed := s.enterHub(f.RoomID)
	defer func() {
		s.shard.run(func(sh *shard) { sh.settled(f.RoomID) })
		if err != nil {
			s.exitHub()
		}
	}()
	if err := s.follow(followed); err != nil {
		return err
	}
	sent := s.g.hub.clock()
	resp, err := s.confirm(f, who)
	if err != nil {
		return err
	}
	s.take(resp, who.made)
	s.renewedAt(sent)
	s.letIn(f.After, resp)
	s.g.metrics.joins.With(joinOK).Inc()
	return nil
}

// enterHub gives the session its shard and group, and answers with when the room is followed.
func (s *session) enterHub(roomID string) (followed <-chan struct{}) {
	s.shard, s.group, followed = s.g.hub.enter(roomID)
	s.g.keeper.group(s, s.group)
	s.joined.RoomID = roomID
	return followed
}

// exitHub undoes enterHub, if it was called.
func (s *session) exitHub() {
	if s.shard != nil {
		s.shard = nil
		s.g.hub.exit(s.joined.RoomID, s.group)
	}
}

// applicant is who wants to join.
type applicant struct {
	user     string // empty where the permit tells
	nickname string
	made     string // the identity that was made for who brought neither one nor a permit
}

// whoJoins finds out who joins, and makes an identity where it takes one.
func (s *session) whoJoins(f *wire.ClientFrame) (applicant, error) {
	switch {
	case f.Identity != "":
		id, err := s.g.cfg.Identities.Verify(f.Identity)
		if f.Nickname == "" && f.Permit == "" {
			return applicant{user: id.UserID, nickname: id.Nickname}, err
		}
		return applicant{user: id.UserID, nickname: f.Nickname}, err
	case f.Permit != "":
		return applicant{nickname: f.Nickname}, nil
	}
	made, id, err := s.g.cfg.Identities.Make(f.Nickname)
	return applicant{user: id.UserID, nickname: f.Nickname, made: made}, err
}

// follow waits until the room is followed, and looks whether the peer has waited too.
func (s *session) follow(followed <-chan struct{}) error {
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
	return nil
}

// confirm takes the seat.
func (s *session) confirm(f *wire.ClientFrame, who applicant) (*roomv1.ConfirmJoinResponse, error) {
	deadline := s.g.redisTime(confirmTimeout) // no later than ctx ends
	ctx, cancel := context.WithTimeout(s.g.hub.ctx, confirmTimeout)
	defer cancel()
	began := s.g.hub.clock()
	resp, err := s.g.cfg.Rooms.ConfirmJoin(ctx, &roomv1.ConfirmJoinRequest{
		RoomId: f.RoomID, Permit: f.Permit, UserId: who.user, Nickname: who.nickname,
		SessionId: s.id, GatewayId: s.g.cfg.ID, OwnSeatOnly: f.Permit == "" && !s.g.cfg.WalkIn,
		Deadline: deadline,
	})
	if err != nil {
		// A call that took so long was repeated, and the first one may yet be carried out,
		// though the repeated one was refused.
		repeated := s.g.hub.clock()-began > repeatedAfter
		if code := wire.CodeOf(err); repeated || code == wire.Unavailable || code == wire.Internal {
			s.giveUpJoin(ctx, f.RoomID, repeated)
		}
	}
	return resp, err
}

// giveUpJoin gives up the seat that a join may have got though its answer was lost. The
// client will be told of an error, and may then join elsewhere: so where a ConfirmJoin may
// still be on its way, this returns only when that cannot be carried out any more. That is
// once the session is known to have ended, and at the latest when ctx ends, which is the
// deadline that the ConfirmJoin carries.
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
