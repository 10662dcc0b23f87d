package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
)

// maxInbox is how many events may wait for a shard; more are read from the log later.
const maxInbox = 1 << 16

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
	tasks  []task       // being done; the other of two slices that take turns as inbox
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
	rested := time.NewTimer(0) // fires when a dirty room has rested
	defer rested.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-rested.C:
		}
		if rest := s.work(); rest > 0 {
			rested.Reset(rest)
		}
	}
}

// work does what is in the inbox, then sends what came of it. It returns how long the first
// of those rooms rests that flush left for later, 0 if there is none.
func (s *shard) work() (rest time.Duration) {
	var missed map[string]bool
	s.mu.Lock()
	unheard := s.unheard
	s.unheard = false
	s.tasks, s.inbox = s.inbox, s.tasks[:0]
	if len(s.missed) > 0 {
		missed, s.missed = s.missed, make(map[string]bool)
	}
	s.mu.Unlock()
	for _, t := range s.tasks {
		if t.do != nil {
			t.do(s)
		} else if r := s.rooms[t.roomID]; r != nil {
			r.event(t.event)
		}
	}
	clear(s.tasks) // lets go of frames and closures
	if unheard {
		s.hub.noticesLost()
	}
	for roomID := range missed {
		if r := s.rooms[roomID]; r != nil {
			r.read()
		}
	}
	return s.flush()
}

// open prepares for a join: what is published from now on is remembered.
func (s *shard) open(roomID string) {
	r := s.rooms[roomID]
	if r == nil {
		r = &localRoom{shard: s, id: roomID, occupancy: neverTold()}
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
