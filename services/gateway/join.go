package gateway

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
)

const (
	followTimeout  = 3 * time.Second
	confirmTimeout = 5 * time.Second
	repeatedAfter  = 250 * time.Millisecond // a ConfirmJoin takes a few milliseconds
	replayPage     = 64                     // entries read and sent at a time when a member comes back
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
	s.sock.readBy(time.Time{})
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
		// A call that took so long was repeated, and the first one may yet be carried out,
		// though the repeated one was refused.
		repeated := s.g.hub.clock()-sent > repeatedAfter
		if code := wire.CodeOf(err); repeated || code == wire.Unavailable || code == wire.Internal {
			s.g.background.Go(func() { s.g.abandon(f.RoomID, s.id) })
		}
		return err
	}
	s.shard = sh
	s.take(resp, token)
	s.renewedAt(sent)
	s.enter(f.After, resp)
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
func (s *session) enter(after *wire.Position, resp *roomv1.ConfirmJoinResponse) {
	roomID := s.joined.RoomID
	defer s.shard.run(func(sh *shard) { sh.settled(roomID) })

	next := s.joined.Seq + 1
	var entries []roomlog.Entry
	var gap []byte
	if after != nil {
		var err error
		if next, entries, gap, err = s.missed(*after); err != nil {
			s.cannotReplay(err)
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
		for _, e := range entries {
			if e.Seq == next {
				head = appendFrame(head, e.Frame)
				next++
			}
		}
		// What the peer takes shows that it lives: pongs are not read meanwhile.
		if !s.sock.sendAll(head, s.hear) {
			return
		}
		head = head[:0]
		if next > s.joined.Seq && s.added(next-1) {
			return
		}
		page, err := s.readOn(next)
		if err != nil {
			s.cannotReplay(err)
			return
		}
		entries = page.Entries
		first := page.Last + 1
		if len(entries) > 0 {
			first = entries[0].Seq
		}
		if first > next {
			head = appendFrame(head, wire.GapFrame(next, first-1))
			next = first
		}
	}
}

func (s *session) cannotReplay(err error) {
	slog.Warn("cannot read what a member missed", "room", s.joined.RoomID, "err", err)
	s.close(wire.CloseUnavailable)
}

var errLogGone = errors.New("the log has lost entries or belongs to another life of the room")

// readOn reads the next page, or from where history begins if that is later. There is
// one: the log has what members have.
func (s *session) readOn(next int64) (roomlog.Range, error) {
	page, err := s.readLog(next, next+replayPage-1)
	if err == nil && len(page.Entries) == 0 && page.Epoch == s.joined.Epoch && page.Last >= next {
		page, err = s.readLog(next, 0)
		page.Entries = page.Entries[:min(len(page.Entries), replayPage)]
	}
	if err == nil && (page.Epoch != s.joined.Epoch || page.Last < next) {
		err = errLogGone
	}
	return page, err
}

func (s *session) readLog(first, last int64) (roomlog.Range, error) {
	ctx, cancel := context.WithTimeout(s.g.hub.ctx, readTimeout)
	defer cancel()
	return s.g.hub.readLog(ctx, s.joined.RoomID, first, last)
}

// missed reads the first page of what a member missed, and tells in JOINED whether all
// of it is there. next is the seq with which the frames behind JOINED begin.
func (s *session) missed(after wire.Position) (next int64, entries []roomlog.Entry, gap []byte, err error) {
	seq := s.joined.Seq
	lacks := func(from, to int64) (int64, []roomlog.Entry, []byte, error) {
		if from <= to {
			gap = appendFrame(nil, wire.GapFrame(from, to))
		}
		return to + 1, nil, gap, nil
	}
	switch {
	case after.Epoch != s.joined.Epoch:
		return lacks(1, seq)
	case after.Seq > seq:
		return seq + 1, nil, nil, nil // Redis has lost entries that this member saw
	case after.Seq == seq:
		s.joined.Recovered = true
		return seq + 1, nil, nil, nil
	}
	page, err := s.readLog(after.Seq+1, min(seq, after.Seq+replayPage))
	if err == nil && page.Epoch == s.joined.Epoch && len(page.Entries) == 0 {
		page, err = s.readLog(after.Seq+1, seq) // history reaches back to a later entry, if at all
	}
	switch {
	case err != nil:
		return 0, nil, nil, err
	case page.Epoch != s.joined.Epoch || len(page.Entries) == 0:
		return lacks(after.Seq+1, seq)
	}
	s.first = page.Entries[0].Seq
	s.joined.Recovered = s.first == after.Seq+1
	_, _, gap, _ = lacks(after.Seq+1, s.first-1)
	return s.first, page.Entries[:min(len(page.Entries), replayPage)], gap, nil
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
