package gateway

import (
	"slices"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// This file is about what a shard sends. The frames that came for a room since its last flush
// go out in one write per member. Between two flushes a room may rest.

const (
	// A room with many members on this shard rests after each flush, so that what comes meanwhile
	// goes out in one write per member. A write costs 9 µs, and a frame added to it 0.4 µs. So the
	// hotter a room is, the less its messages cost, and most of the shard's time is left to other
	// rooms. In a calm room no message waits.
	manyMembers = 20                     // a room with fewer does not rest
	busyWrite   = 30 * time.Microsecond  // of rest for each member,
	busyRest    = 5 * time.Millisecond   // at most
	hotBatch    = 4                      // a flush of this many entries makes the room hot: nobody reads so fast
	hotWrite    = 150 * time.Microsecond // of rest for each member of a hot room,
	hotRest     = 15 * time.Millisecond  // at most
	fullBatch   = 64 << 10               // bytes; a batch of this size ends the rest

	// If more than fullBatch is to be sent at once, for example after this process was stalled, it
	// goes out in pieces, so that no member who reads is closed as a slow reader.
	pieceRest  = 50 * time.Millisecond // until the next piece, at most,
	pieceLook  = time.Millisecond      // or until all members have taken the last one, checked this often;
	piecesMost = time.Second           // after this time, members are not waited for

	smallBatch = 512 // initial capacity of a batch in bytes
	mostUnused = 64  // batches whose memory a shard keeps for reuse
)

// restAfter returns how long a room rests after a flush.
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

// batch holds the frames that go to each member in one write. A room has memory for it only
// while there are frames, since most rooms are silent most of the time.
type batch struct {
	frames        []byte
	offsets       []offset
	tellsOccupied bool // the frames include OCCUPANCY
}

// offset says which bytes of a batch are an entry, or a GAP for several entries. It is needed
// for members that joined in the middle of a batch and have some of the entries already.
type offset struct {
	first, last int64
	from, to    int
}

// put appends a frame for the entries from first to last to the batch.
func (r *localRoom) put(first, last int64, frame []byte) {
	r.touch()
	from := len(r.frames)
	r.frames = appendFrame(r.frames, frame)
	r.offsets = append(r.offsets, offset{first, last, from, len(r.frames)})
	r.last = last
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

// early reports whether the room's rest may end now: the batch is full or, while pieces are
// sent, all members have taken the last one.
func (r *localRoom) early() bool {
	if r.pieces {
		return !slices.ContainsFunc(r.members, func(m *session) bool { return m.sock.waits() })
	}
	return r.full()
}

// flush sends the batch to the members and begins the next one with what did not fit. A
// session whose lease has ended gets nothing any more.
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

// rests returns how much longer the room rests; it is not positive if the room does not rest.
// Any goroutine may call it.
func (r *localRoom) rests(now time.Duration) time.Duration {
	return time.Duration(r.restUntil.Load()) - now
}

func (r *localRoom) sendBatch(m *session) bool {
	frames := r.frames
	switch {
	case r.mixed && m.joined.Epoch != r.epoch:
		return true // the batch is of the other epoch
	case len(r.offsets) > 0 && m.hasUpTo >= r.offsets[0].first:
		frames = r.framesAfter(m.hasUpTo)
	}
	return len(frames) == 0 || m.sock.send(frames)
}

// framesAfter returns the batch's frames without the entries up to seq.
func (b *batch) framesAfter(seq int64) []byte {
	var frames []byte
	end := 0
	for _, o := range b.offsets {
		frames = append(frames, b.frames[end:o.from]...)
		switch {
		case o.first > seq:
			frames = append(frames, b.frames[o.from:o.to]...)
		case o.last > seq:
			frames = appendFrame(frames, wire.GapFrame(seq+1, o.last))
		}
		end = o.to
	}
	return append(frames, b.frames[end:]...)
}

// flush flushes the dirty rooms whose rest is over. It returns how soon it must be called
// again for the others, 0 if there are none.
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

// giveBack keeps the memory of a batch for the next room, unless it is large or there is
// enough.
func (s *shard) giveBack(b batch) {
	if b.frames != nil && cap(b.frames) <= pieceSize && len(s.unused) < mostUnused {
		s.unused = append(s.unused, batch{frames: b.frames[:0], offsets: b.offsets[:0]})
	}
}

// sendNow sends the members what came before a close, whether or not the room rests.
func (r *localRoom) sendNow() {
	for len(r.frames) > 0 {
		r.flush(r.shard.hub.clock())
	}
}
