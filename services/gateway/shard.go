package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// Events that may wait for a shard. More are dropped, and read from the log later.
const (
	maxInbox      = 1 << 16
	maxInboxBytes = 64 << 20 // of frames
)

// shard serves a part of this gateway's members. One goroutine owns its local rooms and their
// members, so it needs no locks, and events keep their order. It never blocks: what it reads
// from the log comes back through its inbox.
type shard struct {
	hub     *hub
	metrics *gatewayMetrics

	mu         sync.Mutex
	inbox      []task // in order of arrival
	inboxBytes int
	missed     map[string]bool // rooms with events that did not fit into the inbox
	unheard    bool            // one of those events was a notice that ends a session, which is not in the log
	wake       chan struct{}

	// Owned by the shard's goroutine.
	rooms  map[string]*localRoom
	tasks  []task       // in progress; takes turns with inbox
	dirty  []*localRoom // rooms with frames to send
	spare  []*localRoom // the second slice, which takes turns with dirty
	unused []batch      // memory for batches that no room uses at the moment
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

// event queues an event, or records that it was dropped.
func (s *shard) event(roomID string, e roomlog.Event) {
	s.mu.Lock()
	if len(s.inbox) >= maxInbox || s.inboxBytes+len(e.Data) > maxInboxBytes {
		s.missed[roomID] = true
		s.unheard = s.unheard || e.Seq == 0 && e.Kind != roomlog.KindOccupancy
		s.metrics.drops.With(dropInboxFull).Inc()
	} else {
		s.inbox = append(s.inbox, task{roomID: roomID, event: e})
		s.inboxBytes += len(e.Data)
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
	rested := time.NewTimer(0) // fires when flush has to look at a dirty room again
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

// work carries out the tasks in the inbox, then flushes the dirty rooms. It returns how soon
// it must be called again for the rooms that flush left for later, 0 if there are none.
func (s *shard) work() (rest time.Duration) {
	var missed map[string]bool
	s.mu.Lock()
	unheard := s.unheard
	s.unheard = false
	s.tasks, s.inbox, s.inboxBytes = s.inbox, s.tasks[:0], 0
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
	clear(s.tasks) // releases frames and closures
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

// open prepares a room for the join of a session: from now on it remembers what is published.
func (s *shard) open(roomID, sessionID string) {
	r := s.rooms[roomID]
	if r == nil {
		r = &localRoom{shard: s, id: roomID, occupancy: neverTold()}
		s.rooms[roomID] = r
	}
	if r.joining == nil {
		r.joining = make(map[string]wire.CloseCode)
	}
	r.joining[sessionID] = 0
}

// settled undoes open, once the session has joined or its join has failed.
func (s *shard) settled(roomID, sessionID string) {
	r := s.rooms[roomID]
	delete(r.joining, sessionID)
	if len(r.joining) == 0 {
		r.joining, r.deleted, r.recent = nil, nil, tail{}
	}
	r.dropIfEmpty()
}
