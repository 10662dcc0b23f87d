package gateway

import (
	"slices"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// What goes out of a shard: the frames that came for a room since the last flush leave in
// one write a member. How long a room rests between two flushes stands here.

const (
	// A room with many members here rests after each flush, so that what comes meanwhile
	// goes out in one write a member. A write costs 9 µs, and what is added to it 0.4 µs: so
	// a hot room costs less the hotter it is, and leaves most of its shard to the others. A
	// room that is calm never waits.
	manyMembers = 20                     // fewer, and a room does not rest
	busyWrite   = 30 * time.Microsecond  // of rest for each of them,
	busyRest    = 5 * time.Millisecond   // at most
	hotBatch    = 4                      // entries in a flush from which on a room is hot: nobody reads so fast
	hotWrite    = 150 * time.Microsecond // of rest for each member then,
	hotRest     = 15 * time.Millisecond  // at most
	fullBatch   = 64 << 10               // bytes with which a room does not rest on

	// What comes in one go and is more than that, as behind a time in which this process
	// stood still, goes out a piece at a time, so that nobody who reads is called slow.
	pieceRest  = 50 * time.Millisecond // until the next one, at most,
	pieceLook  = time.Millisecond      // or until everybody was seen to have taken the last;
	piecesMost = time.Second           // and after that, nobody is waited for

	smallBatch = 512 // bytes of a batch's memory at first
	mostUnused = 64  // batches whose memory is kept for the next rooms
)

// restAfter is how long a room rests after a flush.
func restAfter(members, entries int) time.Duration {
	switch {
	case members < manyMembers:
		return 0
	case entries < hotBatch:
		return min(time.Duration(members)*busyWrite, busyRest)
	default:
		return min(time.Duration(members)*hotWrite, hotRest)
	}
}

// batch is frames that go to the members in one write each. A room has the memory for
// it only as long as there are some: most rooms are silent most of the time.
type batch struct {
	frames        []byte
	offsets       []offset
	tellsOccupied bool // OCCUPANCY is among the frames
}

// offset says which part of batch is an entry, or a GAP for several: members that joined in
// the middle of a batch have some of them already.
type offset struct {
	first, seq int64
	from, to   int
}

// put appends a frame for the entries from first to seq.
func (r *localRoom) put(first, seq int64, frame []byte) {
	r.touch()
	from := len(r.frames)
	r.frames = appendFrame(r.frames, frame)
	r.offsets = append(r.offsets, offset{first, seq, from, len(r.frames)})
	r.last = seq
}

func (r *localRoom) touch() {
	if !r.dirty {
		r.dirty = true
		r.shard.dirty = append(r.shard.dirty, r)
	}
	if r.frames == nil {
		r.batch = r.shard.lend()
	}
}

func (b *batch) full() bool { return len(b.frames) >= fullBatch }

// early reports whether the room need not rest on.
func (r *localRoom) early() bool {
	if r.pieces {
		return !slices.ContainsFunc(r.members, func(m *session) bool { return m.sock.waits() })
	}
	return r.full()
}

// flush sends the batch, and begins the next one with what did not fit. A session whose
// lease has ended gets nothing any more.
func (r *localRoom) flush(now time.Duration) {
	if r.tellsOccupied {
		r.occupancy.at = now
	}
	for i := 0; i < len(r.members); {
		m := r.members[i]
		if !m.fenceIfLapsed(now) && !r.sendBatch(m) {
			r.remove(m)
			continue
		}
		i++
	}
	r.shard.metrics.deliveries.Add(len(r.offsets) * len(r.members))
	for _, m := range slices.Clone(r.departing) {
		if r.last >= m.until {
			r.remove(m)
		}
	}
	r.storeSentUpTo()
	r.shard.giveBack(r.batch)
	r.batch = batch{}
	began := r.pieces
	r.pieces = r.reading == readPaused || r.reading == readNone && len(r.waiting.entries) > 0
	if r.pieces && !began {
		r.patientUntil = now + piecesMost
	}
	switch {
	case r.reading == readPaused:
		r.startRead(0)
	case r.pieces:
		r.enqueueWaiting()
	}
}

// rests is how long the room rests on, if at all. Any goroutine may ask.
func (r *localRoom) rests(now time.Duration) time.Duration {
	return time.Duration(r.restUntil.Load()) - now
}

func (r *localRoom) sendBatch(m *session) bool {
	frames := r.frames
	switch {
	case r.mixed && m.joined.Epoch != r.epoch:
		return true // of another life of the room
	case len(r.offsets) > 0 && m.since >= r.offsets[0].first:
		frames = r.since(m.since)
	}
	return len(frames) == 0 || m.sock.send(frames)
}

// since is the batch's frames without the entries up to a seq.
func (b *batch) since(seq int64) []byte {
	var frames []byte
	end := 0
	for _, o := range b.offsets {
		frames = append(frames, b.frames[end:o.from]...)
		switch {
		case o.first > seq:
			frames = append(frames, b.frames[o.from:o.to]...)
		case o.seq > seq:
			frames = appendFrame(frames, wire.GapFrame(seq+1, o.seq))
		}
		end = o.to
	}
	return append(frames, b.frames[end:]...)
}

// flush sends each room's frames to its members, one write each. It answers with how
// long the first of those rooms rests that it left for later, 0 where there is none.
func (s *shard) flush() (rest time.Duration) {
	now := s.hub.clock()
	dirty := s.dirty
	s.dirty = s.spare[:0]
	for _, r := range dirty {
		left := r.rests(now)
		if left > 0 && !r.early() {
			s.dirty = append(s.dirty, r)
		} else {
			r.dirty = false
			left = restAfter(len(r.members), len(r.offsets))
			r.flush(now)
			now = s.hub.clock()
			if r.pieces {
				left = max(min(pieceRest, r.patientUntil-now), pieceLook)
			}
			r.restUntil.Store(int64(now + left))
		}
		if !r.dirty {
			continue
		}
		if r.pieces {
			left = min(left, pieceLook)
		}
		if rest == 0 || left < rest {
			rest = left
		}
	}
	clear(dirty)
	s.spare = dirty[:0]
	return rest
}

// lend gives a room memory for a batch.
func (s *shard) lend() batch {
	n := len(s.unused)
	if n == 0 {
		return batch{frames: make([]byte, 0, smallBatch)}
	}
	b := s.unused[n-1]
	s.unused = s.unused[:n-1]
	return b
}

// giveBack takes it back for the next room, unless there is much of it.
func (s *shard) giveBack(b batch) {
	if b.frames != nil && cap(b.frames) <= pieceSize && len(s.unused) < mostUnused {
		s.unused = append(s.unused, batch{frames: b.frames[:0], offsets: b.offsets[:0]})
	}
}

// sendNow sends what came before a close.
func (r *localRoom) sendNow() {
	for len(r.frames) > 0 {
		r.flush(r.shard.hub.clock())
	}
}
