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
	replayPage   = 64               // entries read and sent at a time when a member comes back,
	pageBytes    = 64 << 10         // and bytes; also for local rooms that catch up
	maxReplays   = 64               // pages at a time of members who come back: 12 MiB in all
	turnPatience = 10 * time.Second // how long to wait for a turn to read
	turnMost     = time.Second      // how long a turn lasts at most if the peer takes its page slowly
)

// replay sends a session what it missed, a page at a time. A thousand members may come back at
// once, so for each page a session waits for its turn, which lasts until the page is sent. In
// this way those that have a turn are served fast, and the others hold no memory.
type replay struct {
	s    *session
	done func() // ends the turn; nil without one
}

// read reads the entries first…last, as many as fit on a page. It waits for a turn if it has
// none.
func (p *replay) read(first, last int64) (roomlog.Range, error) {
	h := p.s.g.hub
	if p.done == nil {
		done, err := h.replaySlots.acquire(h.ctx, turnPatience)
		if err != nil {
			return roomlog.Range{}, err
		}
		p.done = done
	}
	ctx, cancel := context.WithTimeout(h.ctx, readTimeout)
	defer cancel()
	return h.readLog(ctx, p.s.joined.RoomID, first, last)
}

// send sends a page and ends its turn.
func (p *replay) send(frames []byte) bool {
	if p.done != nil {
		// A peer that reads slowly may keep its page, but must not keep others waiting.
		slow := time.AfterFunc(turnMost, p.done)
		defer slow.Stop()
		defer p.endTurn()
	}
	// Pongs are not read meanwhile. That the peer takes data shows that it is alive.
	return !p.s.fenceIfLapsed(p.s.g.hub.clock()) && p.s.sock.sendAll(frames, p.s.hear)
}

func (p *replay) endTurn() {
	if p.done != nil {
		p.done()
		p.done = nil
	}
}

// letIn sends JOINED and what was missed, and then makes the session a member, which gets the
// live entries. An error means that it was not let in: the seat stays the session's then, until
// its lease ends or its user joins again.
func (s *session) letIn(after *wire.Position, resp *roomv1.ConfirmJoinResponse) error {
	p := &replay{s: s}
	defer p.endTurn()

	head, entries, next, err := p.begin(after, resp)
	if err != nil {
		return err
	}
	for sent := false; ; sent = true {
		for _, e := range entries {
			if e.Seq == next {
				head = appendFrame(head, e.Frame)
				next++
			}
		}
		if !p.send(head) {
			if !sent {
				return errGone
			}
			return nil
		}
		head = head[:0]
		if next > s.joined.Seq && s.enterRoom(next-1) {
			return nil
		}
		page, err := p.readOn(next)
		if err != nil {
			s.cannotReplay(err)
			return nil
		}
		entries = page.Entries
		first := page.Last + 1
		if len(entries) > 0 {
			first = entries[0].Seq
		}
		if first > next {
			head = appendFrame(head, wire.GapFrame(next, first-1))
			next = first
			s.outgoing.carry(first)
		}
	}
}

// begin puts JOINED together, followed by a GAP if there is one, and reads the first page of
// what was missed. next is the seq of the first entry to send after that.
func (p *replay) begin(after *wire.Position, resp *roomv1.ConfirmJoinResponse) (head []byte, entries []roomlog.Entry, next int64, err error) {
	s := p.s
	next = s.joined.Seq + 1
	var gap []byte
	if after != nil {
		if next, entries, gap, err = p.missed(*after); err != nil {
			return nil, nil, 0, err
		}
	}
	j := s.joined
	for _, m := range resp.GetMembers() {
		j.Members = append(j.Members, wire.Member{UserID: m.GetUserId(), Nickname: m.GetNickname()})
	}
	s.joined.Identity = ""
	return append(appendFrame(nil, j.Encode()), gap...), entries, next, nil
}

// cannotReplay closes a session that was sent JOINED and cannot be sent what it missed.
func (s *session) cannotReplay(err error) {
	if wire.CodeOf(err) == wire.RoomNotFound {
		s.close(wire.CloseRoomDeleted)
		return
	}
	slog.Warn("cannot read what a member missed", "room", s.joined.RoomID, "err", err)
	s.close(wire.CloseUnavailable)
}

var errLogGone = errors.New("the log has lost entries")

// readOn reads the page that starts with next, or with the oldest entry of the history if that
// is later. There is such a page, since the log reaches at least as far as its members;
// otherwise it has lost entries.
func (p *replay) readOn(next int64) (roomlog.Range, error) {
	epoch := p.s.joined.Epoch
	page, err := p.read(next, next+replayPage-1)
	if err == nil && len(page.Entries) == 0 && page.Epoch == epoch && page.Last >= next {
		page, err = p.read(next, 0)
	}
	switch {
	case err != nil:
	case page.Epoch != epoch:
		err = wire.Errorf(wire.RoomNotFound, "another room has its id")
	case page.Last < next:
		err = errLogGone
	}
	return page, err
}

// missed reads the first page of what a member missed, and sets Recovered in JOINED if history
// has all of it. next is the seq of the first entry to send, and gap is the GAP frame for what
// history does not have.
func (p *replay) missed(after wire.Position) (next int64, entries []roomlog.Entry, gap []byte, err error) {
	s := p.s
	seq := s.joined.Seq
	switch {
	case after.Epoch != s.joined.Epoch:
		return seq + 1, nil, gapOf(1, seq), nil
	case after.Seq > seq:
		return seq + 1, nil, nil, nil // Redis has lost entries that this member saw
	case after.Seq == seq:
		s.joined.Recovered = true
		return seq + 1, nil, nil, nil
	}
	page, err := p.read(after.Seq+1, min(seq, after.Seq+replayPage))
	if err == nil && page.Epoch == s.joined.Epoch && len(page.Entries) == 0 {
		page, err = p.read(after.Seq+1, seq) // history begins with a later entry, if it has any
	}
	switch {
	case err != nil:
		return 0, nil, nil, err
	case page.Epoch != s.joined.Epoch || len(page.Entries) == 0:
		return seq + 1, nil, gapOf(after.Seq+1, seq), nil
	}
	first := page.Entries[0].Seq
	s.outgoing.carry(first)
	s.joined.Recovered = first == after.Seq+1
	return first, page.Entries, gapOf(after.Seq+1, first-1), nil
}

// gapOf returns the GAP frame for the entries from…to, nil if there are none.
func gapOf(from, to int64) []byte {
	if from > to {
		return nil
	}
	return appendFrame(nil, wire.GapFrame(from, to))
}

// enterRoom makes this session a member that has everything up to seq. It reports false if the
// session has to read on first.
func (s *session) enterRoom(seq int64) bool {
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
