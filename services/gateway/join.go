package gateway

import (
	"context"
	"log/slog"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
)

const (
	followTimeout  = 3 * time.Second
	confirmTimeout = 5 * time.Second
	replayPage     = 64 // entries read and sent at a time when a member comes back
)

// joinAsked carries out the join that the URL asked for.
func (s *session) joinAsked() {
	f := s.ask
	s.ask = nil
	if f.Permit != "" && f.RoomID == "" {
		roomID, _, err := wire.SplitPermit(f.Permit)
		if err != nil {
			s.refuseJoin(err)
			return
		}
		f.RoomID = roomID
	}
	if err := f.CheckJoin(); err != nil {
		s.refuseJoin(err)
		return
	}
	s.join(f)
}

// refuseJoin tells why, and ends the socket with the code that goes with it.
func (s *session) refuseJoin(err error) {
	e := wire.AsError(err)
	if e.Code == wire.Internal {
		slog.Error("join failed", "err", err)
	}
	s.g.metrics.joins.WithLabelValues(string(e.Code)).Inc()
	s.refuse(e, "")
	s.close(e.Code.Translate().Close)
}

// join makes this socket a session of a room.
func (s *session) join(f *wire.ClientFrame) {
	_ = s.sock.nc.SetReadDeadline(time.Time{})
	user, nickname, token, err := s.who(f)
	if err != nil {
		s.refuseJoin(err)
		return
	}
	sh, followed := s.g.hub.enter(f.RoomID)
	s.joined.RoomID = f.RoomID
	if err := s.confirm(f, sh, followed, user, nickname, token); err != nil {
		sh.run(func(sh *shard) { sh.settled(f.RoomID) })
		s.g.hub.exit(f.RoomID, sh)
		s.refuseJoin(err)
		return
	}
	s.g.metrics.joins.WithLabelValues("ok").Inc()
}

// who finds out who joins. Without an identity or a permit it makes an identity, which
// JOINED brings to the client.
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
func (s *session) confirm(f *wire.ClientFrame, sh *shard, followed <-chan struct{}, user, nickname, token string) error {
	timeout := time.NewTimer(followTimeout)
	defer timeout.Stop()
	select {
	case <-followed:
	case <-timeout.C:
		return wire.Errorf(wire.Unavailable, "the room's channel is out of reach")
	}
	ctx, cancel := context.WithTimeout(s.g.hub.ctx, confirmTimeout)
	defer cancel()
	sent := s.g.hub.clock()
	resp, err := s.g.cfg.Rooms.ConfirmJoin(ctx, &roomv1.ConfirmJoinRequest{
		RoomId: f.RoomID, Permit: f.Permit, UserId: user, Nickname: nickname,
		SessionId: s.id, GatewayId: s.g.cfg.ID, OwnSeatOnly: f.Permit == "" && !s.g.cfg.WalkIn,
	})
	if err != nil {
		if code := wire.CodeOf(err); code == wire.Unavailable || code == wire.Internal {
			s.g.sockets.Go(func() { s.g.abandon(f.RoomID, s.id) })
		}
		return err
	}
	s.shard = sh
	s.take(resp, token)
	s.renewedAt(sent)
	s.enter(ctx, f.After, resp)
	return nil
}

// take keeps what the session needs of its join.
func (s *session) take(resp *roomv1.ConfirmJoinResponse, token string) {
	r := resp.GetRoom()
	me := wire.Member{UserID: resp.GetMember().GetUserId(), Nickname: resp.GetMember().GetNickname()}
	s.from = me.Encode()
	s.counted = r.GetPresence() == roomv1.Presence_PRESENCE_COUNT
	s.joined = wire.Joined{
		RoomID: r.GetRoomId(), Epoch: r.GetEpoch(), Seq: resp.GetSeq(), UserID: me.UserID, SessionID: s.id,
		Identity: token, Capacity: int(r.GetCapacity()), Occupied: int(r.GetOccupied()),
	}
	s.first = s.joined.Seq + 1
}

// enter sends JOINED and what was missed, and then lets the live entries in.
func (s *session) enter(ctx context.Context, after *wire.Position, resp *roomv1.ConfirmJoinResponse) {
	roomID := s.joined.RoomID
	defer s.shard.run(func(sh *shard) { sh.settled(roomID) })

	next := s.joined.Seq + 1
	var page roomlog.Range
	var gap []byte
	if after != nil {
		var err error
		if next, page, gap, err = s.missed(ctx, *after); err != nil {
			slog.Warn("cannot read what a member missed", "room", roomID, "err", err)
			s.close(wire.CloseUnavailable)
			return
		}
	}
	j := s.joined
	for _, m := range resp.GetMembers() {
		j.Members = append(j.Members, wire.Member{UserID: m.GetUserId(), Nickname: m.GetNickname()})
	}
	s.joined.Identity = ""
	head := append(appendFrame(nil, j.Encode()), gap...)
	for {
		for _, e := range page.Entries {
			if e.Seq == next {
				head = appendFrame(head, e.Frame)
				next++
			}
		}
		if !s.sock.sendAll(head) {
			return
		}
		head = head[:0]
		if next > s.joined.Seq && s.added(next-1) {
			return
		}
		var err error
		if page, err = s.g.hub.readLog(ctx, roomID, next, next+replayPage-1); err != nil || page.Epoch != s.joined.Epoch {
			s.close(wire.CloseUnavailable)
			return
		}
		if len(page.Entries) > 0 && page.Entries[0].Seq > next {
			head = appendFrame(head, wire.GapFrame(next, page.Entries[0].Seq-1))
			next = page.Entries[0].Seq
		}
	}
}

// missed reads the first page of what a member missed, and tells in JOINED whether all
// of it is there. next is the seq with which the frames behind JOINED begin.
func (s *session) missed(ctx context.Context, after wire.Position) (next int64, page roomlog.Range, gap []byte, err error) {
	seq := s.joined.Seq
	lacks := func(from, to int64) (int64, roomlog.Range, []byte, error) {
		if from <= to {
			gap = appendFrame(nil, wire.GapFrame(from, to))
		}
		return to + 1, page, gap, nil
	}
	switch {
	case after.Epoch != s.joined.Epoch:
		return lacks(1, seq)
	case after.Seq > seq:
		return seq + 1, page, nil, nil // Redis has lost entries that this member saw
	case after.Seq == seq:
		s.joined.Recovered = true
		return seq + 1, page, nil, nil
	}
	page, err = s.g.hub.readLog(ctx, s.joined.RoomID, after.Seq+1, min(seq, after.Seq+replayPage))
	if err != nil {
		return 0, page, nil, err
	}
	s.joined.Recovered = page.Epoch == s.joined.Epoch && len(page.Entries) > 0 && page.Entries[0].Seq == after.Seq+1
	switch {
	case s.joined.Recovered:
		s.first = after.Seq + 1
		return after.Seq + 1, page, nil, nil
	case page.Epoch != s.joined.Epoch:
		return lacks(after.Seq+1, seq)
	}
	// History reaches back to a later entry, if at all.
	page, err = s.g.hub.readLog(ctx, s.joined.RoomID, after.Seq+1, seq)
	if err != nil {
		return 0, page, nil, err
	}
	if len(page.Entries) == 0 {
		return lacks(after.Seq+1, seq)
	}
	s.first = page.Entries[0].Seq
	return s.first, page, appendFrame(nil, wire.GapFrame(after.Seq+1, s.first-1)), nil
}

// added makes this session a member that has everything up to seq; false when it has
// to read on first.
func (s *session) added(seq int64) bool {
	done := make(chan bool, 1)
	s.shard.run(func(sh *shard) { done <- sh.rooms[s.joined.RoomID].add(s, seq) })
	select {
	case ok := <-done:
		return ok
	case <-s.g.hub.ctx.Done():
		s.close(wire.CloseRestart)
		return true
	}
}
