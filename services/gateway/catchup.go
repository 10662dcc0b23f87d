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

// This file is about how a local room catches up with the log. A hole, a broken subscription,
// a full inbox and members of two epochs all lead to a read of the log. What is published
// meanwhile waits, and is given to the members after what was read. So what happens depends on
// localRoom.reading:
//
//	               without members  readNone        readUnderWay       readPaused
//	the next entry waits            to the batch    waits              waits
//	a hole, …      again = true     a read begins   again = true       again = true
//	the result     again = true                     to the batch (1)
//	flush                           pieces (2)                         the next page is read
//
// (1) A full page leads to readPaused. Otherwise what waited follows, and another read if again
// is set, else readNone. (2) What waits is more than a batch holds, and goes out in pieces.
//
// The first member of a room starts the read that again asks for. While mixed is set, the
// members do not all have the same epoch, and a read is under way or due that will tell which
// is over.

const (
	maxTail      = 4096    // entries that a tail holds at most,
	maxTailBytes = 2 << 20 // and bytes of their frames
	readTimeout  = 3 * time.Second
	readRetry    = 200 * time.Millisecond
	maxReads     = 32 // at a time: after a break of the subscription, every room needs one
)

// tail holds the newest of a room's entries. When it is full, it drops the older half, which
// can be read from the log.
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

// upTo returns the entries that end with seq, going back until there is a hole.
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

// take empties the tail and returns its entries.
func (t *tail) take() []roomlog.Entry {
	entries := t.entries
	*t = tail{}
	return entries
}

// reading says whether a room is reading its log. While it is, the entries that are published
// wait.
type reading uint8

const (
	readNone     reading = iota
	readUnderWay         // its result comes through the shard's inbox
	readPaused           // a page was full: the next one is read once the members have been sent this one
)

// read reads from the log what may be missing. Entries that come meanwhile wait.
func (r *localRoom) read() {
	if len(r.members) == 0 {
		// Redis may have lost these entries. The first member starts a read, which finds what
		// is left.
		r.waiting, r.recent, r.again = tail{}, tail{}, true
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
			if r.reading == readUnderWay && r.readNumber == number { // else this result is out of date
				r.readDone(found, err)
			}
		})
	})
}

// newest returns the newest seq that is known to have been published in the members' epoch.
// That may be the seq of an entry that waits, or the one that a member joined at.
func (r *localRoom) newest() int64 {
	newest := r.last
	for _, e := range r.waiting.entries {
		newest = max(newest, e.Seq)
	}
	for _, m := range r.members {
		if m.joined.Epoch == r.epoch {
			newest = max(newest, m.hasUpTo)
		}
	}
	return newest
}

// readPage waits for its turn and reads one page of a room's log, starting with first.
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
	case len(r.members) == 0: // the entries that wait may be for a session that is joining
		r.again = true
		return
	case errors.Is(err, &wire.Error{Code: wire.RoomNotFound}) && !r.again:
		r.closeWhere(wire.CloseRoomDeleted, func(*session) bool { return true })
		return
	case err != nil:
		if !r.failing { // an outage is logged once, not five times a second for each room
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
		// Redis has lost acknowledged writes, and will give seqs that the members know to
		// other entries. The members are closed and come back, and JOINED tells them where
		// the log is now. What was kept for sessions that are joining may have been lost
		// too, so they read it again.
		r.waiting, r.recent, r.again = tail{}, tail{}, true
		r.closeWhere(wire.CloseUnavailable, func(*session) bool { return true })
		return
	}
	if found.More {
		r.enqueueEntries(found.Entries)
		r.reading = readPaused
		r.touch() // so that the batch is flushed
		return
	}
	again := r.again // members that joined after this read began may have a newer epoch
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

// adopt switches the room to the epoch that the log has. It closes the members of the old
// epoch, and reads again from where the member furthest behind is. A member of a third epoch
// joined after the read began: it stays if another read is due, which will tell about its
// epoch.
func (r *localRoom) adopt(epoch string) {
	r.waiting, r.recent = tail{}, tail{} // these are of the old epoch: the members that stay must not get them
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
		if r.last < 0 || m.hasUpTo < r.last {
			r.last = m.hasUpTo
		}
	}
	r.last = max(r.last, 0)
	r.storeSentUpTo()
	if r.again = len(r.members) == 0; !r.again { // else the room reads when a first member comes
		r.startRead(0)
	}
}

// enqueueEntries gives the members entries that were read, and a GAP for those that history
// has no longer.
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
		if m.hasUpTo < seq && m.joined.Epoch == r.epoch {
			m.skip(max(from, m.hasUpTo+1), seq)
		}
	}
	r.recent = tail{} // it must not have a hole
}
