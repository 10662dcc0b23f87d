package gateway

import (
	"context"
	"hash/fnv"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
)

// groupSize is how many members of a room form a group. The members of a group are on the same
// shard, where one event in the inbox serves them all, and their leases are renewed together.
// A larger room has further groups on other shards, and so uses more cores.
const groupSize = 64

// hub knows which rooms have sessions on this gateway. It follows the channels of these rooms
// and passes what is published to the shards that serve them.
type hub struct {
	ctx    context.Context // ends with the gateway
	start  time.Time
	subs   *roomlog.Subscriber
	shards []*shard

	noticesLost func() // called when notices may have been lost: a subscription broke, an inbox was full

	replaySlots  semaphore // pages of members who come back, being read or sent
	catchUpSlots semaphore // pages that local rooms read to catch up

	// readLog is roomlog.Read with a limit of pageBytes.
	readLog func(ctx context.Context, roomID string, first, last int64) (roomlog.Range, error)

	mu    sync.RWMutex
	rooms map[string]*headcount // the rooms that are followed: exactly those with headcount.total > 0
}

// headcount counts the sessions of a room in all, in each group and on each shard. It includes
// those that are joining.
type headcount struct {
	total   int
	groups  []int
	byShard []int
}

// takeGroup adds a session to the first group that has room for it, and returns the group's
// index.
func (p *headcount) takeGroup() (group int) {
	if group = slices.IndexFunc(p.groups, func(n int) bool { return n < groupSize }); group < 0 {
		group = len(p.groups)
		p.groups = append(p.groups, 0)
	}
	p.groups[group]++
	return group
}

// firstGroup returns the number of a room's first group. The other groups have the numbers
// after it.
func firstGroup(roomID string) uint32 {
	hash := fnv.New32a()
	hash.Write([]byte(roomID))
	return hash.Sum32()
}

func (h *hub) shardOf(group uint32) int { return int(group % uint32(len(h.shards))) }

func newHub(ctx context.Context, cfg Config, m *gatewayMetrics) *hub {
	h := &hub{
		ctx: ctx, start: time.Now(), rooms: make(map[string]*headcount),
		replaySlots: make(semaphore, maxReplays), catchUpSlots: make(semaphore, maxReads),
		readLog: func(ctx context.Context, roomID string, first, last int64) (roomlog.Range, error) {
			return roomlog.Read(ctx, cfg.Redis, cfg.Layout, roomID, first, last, pageBytes)
		},
	}
	h.subs = roomlog.NewSubscriber(cfg.Redis, cfg.Layout, h)
	for range runtime.GOMAXPROCS(0) {
		h.shards = append(h.shards, newShard(h, m))
	}
	return h
}

// clock returns the time since the gateway started. It never goes backwards.
func (h *hub) clock() time.Duration { return time.Since(h.start) }

// enter prepares for a session's join and returns its shard and the number of its group. The
// shard remembers what is published from now on. The room is followed once the returned
// channel is closed. exit undoes enter.
func (h *hub) enter(roomID, sessionID string) (s *shard, group uint32, followed <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.rooms[roomID]
	if p == nil {
		p = &headcount{byShard: make([]int, len(h.shards))}
		h.rooms[roomID] = p
	}
	group = firstGroup(roomID) + uint32(p.takeGroup())
	i := h.shardOf(group)
	p.total++
	p.byShard[i]++
	s = h.shards[i]
	s.run(func(s *shard) { s.open(roomID, sessionID) })
	return s, group, h.subs.Follow(roomID)
}

// exit undoes enter. When the last session of a room exits, the room is not followed any more.
func (h *hub) exit(roomID string, group uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.rooms[roomID]
	p.groups[group-firstGroup(roomID)]--
	p.byShard[h.shardOf(group)]--
	if p.total--; p.total == 0 {
		delete(h.rooms, roomID)
		h.subs.Unfollow(roomID)
	}
}

// Event passes an event to the shards that have sessions of the room.
func (h *hub) Event(roomID string, e roomlog.Event) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if p := h.rooms[roomID]; p != nil {
		for i, n := range p.byShard {
			if n > 0 {
				h.shards[i].event(roomID, e)
			}
		}
	}
}

// Resubscribed makes the shards read what was published while the subscription to the room was
// broken. Notices may have been lost too, so it calls noticesLost.
func (h *hub) Resubscribed(roomID string) {
	h.mu.RLock()
	if p := h.rooms[roomID]; p != nil {
		for i, n := range p.byShard {
			if n > 0 {
				h.shards[i].run(func(s *shard) {
					if r := s.rooms[roomID]; r != nil {
						r.read()
					}
				})
			}
		}
	}
	h.mu.RUnlock()
	h.noticesLost()
}

// serve works until the gateway ends.
func (h *hub) serve() {
	var all sync.WaitGroup
	for _, s := range h.shards {
		all.Go(func() { s.serve(h.ctx) })
	}
	all.Go(func() { h.subs.Run(h.ctx) })
	all.Wait()
}
