package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
)

const (
	followTimeout  = 3 * time.Second
	confirmTimeout = 5 * time.Second
	repeatedAfter  = 250 * time.Millisecond // a slower ConfirmJoin may have been retried; one takes a few ms
)

// errGone says that the socket ended during the join.
var errGone = errors.New("the socket has ended")

// joinOf returns the join that a URL asks for, or nil if it asks for none. If it has a
// parameter for the room or the permit but both are empty, that is a JOIN without a room.
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
	if f.Permit != "" { // in a URL it may be any bytes
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
	return s.join(f, byPermit)
}

// refuseJoin tells the client why its join failed, and closes the socket with the code for
// that.
func (s *session) refuseJoin(err error) {
	result, _ := joinResult(err)
	s.g.metrics.joins.With(result).Inc()
	if errors.Is(err, errGone) {
		return // nobody would get it, and the next read ends the session
	}
	e := wire.AsError(err)
	if e.Code == wire.Internal {
		slog.Error("join failed", "err", err)
	}
	s.sendError(e, "")
	s.close(e.Code.Translate().Close)
}

// joinResult returns how metrics and traces name the result of a join. failed says that the
// service is to blame.
func joinResult(err error) (result string, failed bool) {
	switch {
	case err == nil:
		return joinOK, false
	case errors.Is(err, errGone):
		return joinGone, false
	}
	code := wire.AsError(err).Code
	return string(code), code == wire.Unavailable || code == wire.Internal
}

// join carries out a join, in a span of its own. byPermit says that the client named no room,
// only a permit.
func (s *session) join(f *wire.ClientFrame, byPermit bool) error {
	ctx, end := s.g.cfg.Trace(s.g.hub.ctx, "join")
	result, failed := string(wire.Internal), true // of a panic
	defer func() { end(result, failed) }()
	err := s.enter(ctx, f)
	if byPermit && errors.Is(err, &wire.Error{Code: wire.RoomNotFound}) {
		err = wire.Errorf(wire.PermitExpired, "the permit was used or lapsed, and its room is gone")
	}
	result, failed = joinResult(err)
	return err
}

// enter makes this socket a session of a room: it follows the room, takes the seat, sends what
// the member missed, and lets it into the local room.
func (s *session) enter(ctx context.Context, f *wire.ClientFrame) (err error) {
	s.sock.readBy(time.Time{})
	who, err := s.whoJoins(f)
	if err != nil {
		return err
	}
	f.RoomID = strings.Clone(f.RoomID) // it may be a substring of the whole URL
	followed := s.enterHub(f.RoomID)
	defer func() {
		s.shard.run(func(sh *shard) { sh.settled(f.RoomID, s.id) })
		if err != nil && !s.leased() { // a session with a seat exits at its end
			s.exitHub()
		}
	}()
	_, endFollow := s.g.cfg.Trace(ctx, "follow")
	err = s.follow(followed)
	endFollow(joinResult(err))
	if err != nil {
		return err
	}
	sent := s.g.hub.clock()
	resp, err := s.confirm(ctx, f, who)
	if err != nil {
		return err
	}
	s.take(resp, who.made)
	s.renewedAt(sent)
	if err := s.letIn(f.After, resp); err != nil {
		return err
	}
	s.g.metrics.joins.With(joinOK).Inc()
	return nil
}

// enterHub assigns the session to a shard and a group. The returned channel is closed once the
// room is followed.
func (s *session) enterHub(roomID string) (followed <-chan struct{}) {
	s.shard, s.group, followed = s.g.hub.enter(roomID, s.id)
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

// applicant is the user who wants to join.
type applicant struct {
	user     string // empty if the permit tells it
	nickname string
	made     string // the identity that was made for a client without identity and permit
}

// whoJoins determines who joins. It makes an identity if the client brought neither an
// identity nor a permit.
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

// follow waits until the room is followed and Redis' clock is known, which confirm needs for
// its deadline. Then it checks that the peer is still there.
func (s *session) follow(followed <-chan struct{}) error {
	timeout := time.NewTimer(followTimeout)
	defer timeout.Stop()
	for _, ready := range []<-chan struct{}{followed, s.g.hub.subs.ClockKnown()} {
		select {
		case <-ready:
		case <-timeout.C:
			return wire.Errorf(wire.Unavailable, "the room's channel or Redis' clock is out of reach")
		}
	}
	// This process or Redis may have been stalled for so long that the user has joined
	// elsewhere. That session would lose its seat to a join that nobody waits for.
	if s.gone() {
		return errGone
	}
	return nil
}

// confirm takes the seat. If ConfirmJoin fails and may still have taken it, confirm gives it
// up.
func (s *session) confirm(ctx context.Context, f *wire.ClientFrame, who applicant) (*roomv1.ConfirmJoinResponse, error) {
	deadline := s.g.hub.subs.RedisTime().Add(confirmTimeout) // no later than ctx ends
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	began := s.g.hub.clock()
	resp, err := s.g.cfg.Rooms.ConfirmJoin(ctx, &roomv1.ConfirmJoinRequest{
		RoomId: f.RoomID, Permit: f.Permit, UserId: who.user, Nickname: who.nickname,
		SessionId: s.id, GatewayId: s.g.cfg.ID, OwnSeatOnly: f.Permit == "" && !s.g.cfg.WalkIn,
		Deadline: timestamppb.New(deadline),
	})
	if err != nil {
		// A call that took this long may have been retried. Its first attempt may still be
		// carried out, even though the retry was refused.
		repeated := s.g.hub.clock()-began > repeatedAfter
		if code := wire.CodeOf(err); repeated || code == wire.Unavailable || code == wire.Internal {
			s.giveUpJoin(ctx, f.RoomID, repeated)
		}
	}
	return resp, err
}

// giveUpJoin gives up the seat that a join may have got although its answer was lost. The
// client will get an error and may then join elsewhere. So if a ConfirmJoin may still be on
// its way, giveUpJoin returns only when that call can no longer be carried out: once the
// session is known to have ended, and at the latest when ctx ends, which is the deadline that
// the ConfirmJoin carries.
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

// take stores what the session needs of the answer to its join. made is the identity to return
// in JOINED, if one was made.
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
