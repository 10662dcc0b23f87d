package gateway

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// How a local room catches up with the log: a hole, a break of the subscription, an
// inbox that was full, and members of two lives of the room all lead to a read, behind
// which what came meanwhile is given.

const (
	maxTail      = 4096    // entries that a local room remembers for those who are joining,
	maxTailBytes = 2 << 20 // and bytes
	readTimeout  = 3 * time.Second
	readRetry    = 200 * time.Millisecond
	maxReads     = 32 // at a time: after a break, every room wants one
)

// tail is the newest of a room's entries. Where there are too many, the older half is
// forgotten: it can be read from the log.
type tail struct {
	entries []roomlog.Entry
	bytes   int
}

func (t *tail) add(e roomlog.Entry) {
	for len(t.entries) > 0 && (len(t.entries) >= maxTail || t.bytes+len(e.Frame) > maxTailBytes) {
		forget := (len(t.entries) + 1) / 2
		for _, old := range t.entries[:forget] {
			t.bytes -= len(old.Frame)
		}
		kept := copy(t.entries, t.entries[forget:])
		clear(t.entries[kept:])
		t.entries = t.entries[:kept]
	}
	t.entries = append(t.entries, e)
	t.bytes += len(e.Frame)
}

// upTo is the entries that end with this seq, without a hole.
func upTo(entries []roomlog.Entry, seq int64) (t tail) {
	end := slices.IndexFunc(entries, func(e roomlog.Entry) bool { return e.Seq == seq }) + 1
	from := end
	for from > 0 && entries[from-1].Seq == seq-int64(end-from) {
		from--
	}
	for _, e := range entries[from:end] {
		t.add(e)
	}
	return t
}

// take empties the tail.
func (t *tail) take() []roomlog.Entry {
	entries := t.entries
	*t = tail{}
	return entries
}

// reading is how far a room is with what it reads of its log. Meanwhile all that comes waits.
type reading uint8

const (
	readNone     reading = iota
	readUnderWay         // its answer comes through the shard's inbox
	readPaused           // the page was full: the next one is read once it has gone to the members
)

// read reads from the log what may be missing: what comes meanwhile waits.
func (r *localRoom) read() {
	if len(r.members) == 0 {
		r.again = true                       // for the first member, who reads all of it:
		r.waiting, r.recent = tail{}, tail{} // Redis may have lost what came before
		return
	}
	if r.reading != readNone {
		r.again = true
		return
	}
	r.again = false
	r.shard.metrics.catchUps.Inc()
	r.startRead(0)
}

func (r *localRoom) startRead(delay time.Duration) {
	r.readNumber++
	r.reading, r.occupancy.newer = readUnderWay, false
	r.published = r.newest()
	s, number, first := r.shard, r.readNumber, r.last+1
	s.reads.Go(func() {
		if !pause(s.hub.ctx, delay) {
			return
		}
		found, err := s.hub.readPage(r.id, first)
		s.run(func(*shard) {
			if r.reading == readUnderWay && r.readNumber == number { // else nobody waits for it any more
				r.readDone(found, err)
			}
		})
	})
}

// newest is the newest seq that is known to have been published in the members' life of the
// room: that of what waits too, and of a member's JOINED, which may be ahead of both.
func (r *localRoom) newest() int64 {
	newest := r.last
	for _, e := range r.waiting.entries {
		newest = max(newest, e.Seq)
	}
	for _, m := range r.members {
		if m.joined.Epoch == r.epoch {
			newest = max(newest, m.since)
		}
	}
	return newest
}

// readPage reads a log from first on, as far as a page goes, in its turn.
func (h *hub) readPage(roomID string, first int64) (roomlog.Range, error) {
	done, err := h.catchUpSlots.acquire(h.ctx, turnPatience)
	if err != nil {
		return roomlog.Range{}, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(h.ctx, readTimeout)
	defer cancel()
	return h.readLog(ctx, roomID, first, 0)
}

func (r *localRoom) readDone(found roomlog.Range, err error) {
	r.reading = readNone
	switch {
	case len(r.members) == 0: // what waits may be for one who is joining
		r.again = true
		return
	case errors.Is(err, &wire.Error{Code: wire.RoomNotFound}) && !r.again:
		r.closeWhere(wire.CloseRoomDeleted, func(*session) bool { return true })
		return
	case err != nil:
		if !r.failing { // an outage is told once, not five times a second for each room
			slog.Warn("cannot read a room's log, trying again", "room", r.id, "err", err)
		}
		r.failing, r.again = true, false
		r.startRead(readRetry)
		return
	}
	r.failing = false
	switch {
	case found.Epoch != r.epoch:
		r.adopt(found.Epoch)
		return
	case found.Last < r.published:
		// Redis has lost acknowledged writes: seqs that the members know will be given
		// to other entries. They come back, and JOINED tells them where the log is. What
		// was kept for those who are joining may be of the log that was: they read anew.
		r.waiting, r.recent, r.again = tail{}, tail{}, true
		r.closeWhere(wire.CloseUnavailable, func(*session) bool { return true })
		return
	}
	if found.More {
		r.enqueueEntries(found.Entries)
		r.reading = readPaused
		r.touch() // which sees to it that the batch goes
		return
	}
	again := r.again // those who joined after the read began may be of a newer life
	if r.mixed && !again {
		r.closeWhere(wire.CloseRoomDeleted, func(m *session) bool { return m.joined.Epoch != r.epoch })
		r.mixed = false
		r.storeSentUpTo()
	}
	r.catchUp(found)
	if again {
		r.read()
	}
}

// adopt goes over to the life of the room that the log tells, with those members that
// belong to it, and reads again from where the first of them is. Members of neither that
// life nor the one before joined a newer one after the read began: the next read tells of it.
func (r *localRoom) adopt(epoch string) {
	r.waiting, r.recent = tail{}, tail{} // of the other life: those who stay are not to get it
	r.closeWhere(wire.CloseRoomDeleted, func(m *session) bool {
		return m.joined.Epoch != epoch && (m.joined.Epoch == r.epoch || !r.again)
	})
	r.epoch = epoch
	r.occupancy.forget()
	r.mixed = false
	r.last = -1
	for _, m := range r.members {
		if m.joined.Epoch != epoch {
			r.mixed = true
			continue
		}
		r.occupancy.counted = m.counted
		if r.last < 0 || m.since < r.last {
			r.last = m.since
		}
	}
	r.last = max(r.last, 0)
	r.storeSentUpTo()
	if r.again = len(r.members) == 0; !r.again { // else for the first member
		r.startRead(0)
	}
}

// enqueueEntries gives what was read, with a GAP in front where history begins later.
func (r *localRoom) enqueueEntries(entries []roomlog.Entry) {
	for _, e := range entries {
		if e.Seq > r.last+1 {
			r.gap(e.Seq - 1)
		}
		if e.Seq == r.last+1 {
			r.enqueue(e)
		}
	}
}

func (r *localRoom) catchUp(found roomlog.Range) {
	r.enqueueEntries(found.Entries)
	if found.Last > r.last {
		r.gap(found.Last)
	}
	r.occupancyRead(found.Occupied)
	r.enqueueWaiting()
}

func (r *localRoom) enqueueWaiting() {
	for _, e := range r.waiting.take() {
		r.entry(e)
	}
}

// gap tells the members that the entries up to seq will not come.
func (r *localRoom) gap(seq int64) {
	from := r.last + 1
	r.put(from, seq, wire.GapFrame(from, seq))
	for _, m := range r.members {
		if m.since < seq && m.joined.Epoch == r.epoch {
			m.skip(max(from, m.since+1), seq)
		}
	}
	r.recent = tail{} // has to be without a hole
}
