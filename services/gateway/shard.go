package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
)

// maxInbox is how many events may wait for a shard; more are read from the log later.
const maxInbox = 1 << 16

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

// shard serves a part of this gateway's members. One goroutine owns its rooms and who
// is in them, so what it does needs no locks and keeps its order. It never waits:
// reads of the log come back to it through its inbox.
type shard struct {
	hub     *hub
	metrics *gatewayMetrics

	mu      sync.Mutex
	inbox   []task          // in order of arrival
	missed  map[string]bool // rooms some of whose events did not fit into the inbox
	unheard bool            // and among them was one that ends a session, of which no log tells
	wake    chan struct{}

	// Owned by the shard's goroutine.
	rooms  map[string]*localRoom
	dirty  []*localRoom // with frames to be sent
	spare  []*localRoom // the other of two slices that take turns as dirty
	unused []batch      // memory that no room has at the moment
	reads  sync.WaitGroup
}

// task is one thing for a shard to do: an event of a room, or a function to run.
type task struct {
	roomID string
	event  roomlog.Event
	do     func(*shard)
}

func newShard(h *hub, m *gatewayMetrics) *shard {
	return &shard{
		hub: h, metrics: m, wake: make(chan struct{}, 1),
		missed: make(map[string]bool), rooms: make(map[string]*localRoom),
	}
}

// event queues an event, or remembers that it was dropped.
func (s *shard) event(roomID string, e roomlog.Event) {
	s.mu.Lock()
	if len(s.inbox) >= maxInbox {
		s.missed[roomID] = true
		s.unheard = s.unheard || e.Seq == 0 && e.Kind != roomlog.KindOccupancy
		s.metrics.drops.With(dropInboxFull).Inc()
	} else {
		s.inbox = append(s.inbox, task{roomID: roomID, event: e})
	}
	s.mu.Unlock()
	s.signal()
}

// run queues a function; it is never dropped.
func (s *shard) run(do func(*shard)) {
	s.mu.Lock()
	s.inbox = append(s.inbox, task{do: do})
	s.mu.Unlock()
	s.signal()
}

func (s *shard) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// serve works until ctx ends, then waits for the reads it started.
func (s *shard) serve(ctx context.Context) {
	defer s.reads.Wait()
	var batch []task
	rested := time.NewTimer(0) // fires when a dirty room has rested
	defer rested.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-rested.C:
		}
		var missed map[string]bool
		s.mu.Lock()
		unheard := s.unheard
		s.unheard = false
		batch, s.inbox = s.inbox, batch[:0]
		if len(s.missed) > 0 {
			missed, s.missed = s.missed, make(map[string]bool)
		}
		s.mu.Unlock()
		for _, t := range batch {
			if t.do != nil {
				t.do(s)
			} else if r := s.rooms[t.roomID]; r != nil {
				r.event(t.event)
			}
		}
		if unheard {
			s.hub.after()
		}
		for roomID := range missed {
			if r := s.rooms[roomID]; r != nil {
				r.read()
			}
		}
		if rest := s.flush(); rest > 0 {
			rested.Reset(rest)
		}
		clear(batch) // lets go of frames and closures
	}
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

// open prepares for a join: what is published from now on is remembered.
func (s *shard) open(roomID string) {
	r := s.rooms[roomID]
	if r == nil {
		r = &localRoom{occupancyAt: -occupancyRate, shard: s, id: roomID}
		s.rooms[roomID] = r
	}
	r.joining++
}

// settled undoes open, once the session has joined or will not.
func (s *shard) settled(roomID string) {
	r := s.rooms[roomID]
	r.joining--
	if r.joining == 0 {
		r.recent, r.gone = tail{}, nil
	}
	r.dropIfEmpty()
}
