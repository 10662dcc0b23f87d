package gateway

import (
	"context"
	"log/slog"
	"maps"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
)

const (
	keeperTick   = 500 * time.Millisecond
	renewTurns   = int(wire.RenewEvery / keeperTick)
	pingTurns    = int(wire.PingEvery / keeperTick)
	renewChunk   = 5_000 // sessions in one call
	renewTimeout = 2 * time.Second
	// fence is how long before its lease ends a session is closed: two ticks, so that a
	// tick that comes late is early enough. Behind one that comes later, see fenced.
	fence = 2 * keeperTick
)

// keeper keeps what is alive alive, and ends what is not: it renews the leases of the
// sessions in batches, pings them, drops peers that are silent, and closes a session
// whose lease cannot be renewed before that lease ends.
type keeper struct {
	g *Gateway

	// The goroutine of serve has these.
	ticked time.Duration // clock of the last tick
	turn   int           // of that tick
	stood  bool          // that tick renewed nothing

	mu     sync.Mutex
	turns  [pingTurns]turn
	next   int  // counts sessions, which are spread over the turns
	kicked bool // renew all, notices may be lost
	memory memory

	calls sync.WaitGroup
	warn  rate.Sometimes // of renewals that fail, twice a second each while Redis is away
}

// turn is the sessions that are pinged at one tick of so many. Their leases are renewed
// then, and at every renewTurns-th tick from there. At the others they are passed by, while
// all are quiet: a look is cold memory, and 10,000 of them twice a second are dear.
type turn struct {
	sessions map[*session]struct{}
	// look is the clock when the first of these sessions may have to end, as of when they were
	// looked at last. A session that came later lives at least until the next renewal, when
	// all of them are looked at again.
	look  time.Duration
	talks atomic.Bool // a session has talked, whose echo may be late
}

func newKeeper(g *Gateway) *keeper {
	k := &keeper{g: g, warn: rate.Sometimes{Interval: wire.RenewEvery}}
	for i := range k.turns {
		k.turns[i].sessions = make(map[*session]struct{})
	}
	return k
}

// turnOf is the turn in which a group's leases are renewed: one for all rooms of a
// partition, where there are partitions enough, so that few scripts renew many leases.
func (k *keeper) turnOf(group uint32) int {
	if partitions := k.g.cfg.Layout.Partitions; partitions >= renewTurns {
		group %= uint32(partitions) // that of the room, in a room of one group
	}
	return int(group % uint32(renewTurns))
}

// add takes care of a socket from its start; its lease counts once it has one.
func (k *keeper) add(s *session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.put(s, k.next%pingTurns)
	k.memory.note(k.g.hub.clock())
}

// group gives a session its turn among those in which its group's leases are renewed.
func (k *keeper) group(s *session, group uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(s.turn.sessions, s)
	k.put(s, k.turnOf(group)+k.next%(pingTurns/renewTurns)*renewTurns)
}

func (k *keeper) put(s *session, turn int) {
	k.next++
	s.turn = &k.turns[turn]
	s.turn.sessions[s] = struct{}{}
	if s.talks.Load() {
		s.turn.talks.Store(true)
	}
}

func (k *keeper) remove(s *session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(s.turn.sessions, s)
	k.memory.note(k.g.hub.clock())
}

// all answers with every socket.
func (k *keeper) all() []*session {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []*session
	for i := range k.turns {
		all = slices.AppendSeq(all, maps.Keys(k.turns[i].sessions))
	}
	return all
}

// count answers with the number of sockets.
func (k *keeper) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := 0
	for i := range k.turns {
		n += len(k.turns[i].sessions)
	}
	return n
}

// kick renews every lease at the next tick: notices of takeovers may have been lost.
func (k *keeper) kick() {
	k.mu.Lock()
	k.kicked = true
	k.mu.Unlock()
}

// serve works until ctx ends.
func (k *keeper) serve(ctx context.Context) {
	defer k.calls.Wait()
	tick := time.NewTicker(keeperTick)
	defer tick.Stop()
	k.ticked = k.g.hub.clock()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		k.tick(ctx)
		if k.stood {
			tick.Reset(keeperTick) // the next one would come sooner
		}
	}
}

// tick looks at the sessions, and renews the leases of those whose turn has come.
func (k *keeper) tick(ctx context.Context) {
	due, collect := k.look(k.g.hub.clock())
	if collect {
		// Not debug.FreeOSMemory, which stops a gateway of one core for 100 ms: the runtime
		// gives back little by little what was collected. The second time it finds what pools
		// had kept, and knows how little memory is in use.
		k.calls.Go(func() { runtime.GC(); runtime.GC() })
	}
	for ; len(due) > 0; due = due[min(len(due), renewChunk):] {
		chunk := due[:min(len(due), renewChunk)]
		k.calls.Go(func() { k.renew(ctx, chunk) })
	}
}

// look takes the turns that have passed since the last tick: where ticks come late, one
// would not be enough to ping every session before its silence is too long. It answers with
// the sessions whose leases are to be renewed, and whether to collect garbage.
func (k *keeper) look(now time.Duration) (due []*session, collect bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	first := k.turn + 1
	k.turn = max(int(now/keeperTick), first)
	passed := func(turn, of int) bool { return (turn-first%of+of)%of <= k.turn-first }
	// Behind a time in which this process stood still, peers that broke off in it are only
	// being read of. Their leases are not to begin anew: all others' are, at the next tick,
	// however late that is. A renewal that was being repeated goes on all the same.
	late := now - k.ticked
	k.stood = late > 2*keeperTick && !k.stood
	k.ticked = now
	for i := range k.turns {
		t := &k.turns[i]
		renew := k.kicked || passed(i%renewTurns, renewTurns)
		if k.stood || renew || t.talks.Load() || now >= t.look {
			due = k.lookAt(t, now, late, passed(i, pingTurns), renew && !k.stood, due)
		}
	}
	k.kicked = k.stood
	return due, k.memory.due(now)
}

// lookAt ends those sessions of a turn whose time has come, and pings the others where they
// are to be. It appends those whose leases are to be renewed to due.
func (k *keeper) lookAt(t *turn, now, late time.Duration, ping, renew bool, due []*session) []*session {
	t.talks.Store(false)
	t.look = math.MaxInt64
	for s := range t.sessions {
		if k.stood { // meanwhile nobody was pinged, and nothing was read: that is no silence
			heard := s.heardAt.Load()
			s.heardAt.CompareAndSwap(heard, min(heard+int64(late), int64(now)))
		}
		if s.endedBy(now, k.stood) {
			t.look = now
			continue
		}
		t.look = min(t.look, s.endsAt())
		s.calm(now)
		if s.talks.Load() {
			t.talks.Store(true)
		}
		if ping {
			s.sock.send(pingFrame)
		}
		if renew && s.leased() && !s.sock.ending() {
			due = append(due, s)
		}
	}
	return due
}

// renew renews leases until it works, or the sessions' next turn has come. Those of
// sessions that have ended meanwhile are let go.
func (k *keeper) renew(ctx context.Context, sessions []*session) {
	ctx, cancel := context.WithTimeout(ctx, wire.RenewEvery-keeperTick)
	defer cancel()
	for len(sessions) > 0 {
		sent := k.g.hub.clock()
		resp, err := k.call(ctx, sessions)
		if err == nil {
			k.renewed(sessions, resp, sent)
			return
		}
		k.g.metrics.renewals.With(renewalFailed).Add(len(sessions))
		k.warn.Do(func() { slog.Warn("cannot renew leases", "sessions", len(sessions), "err", err) })
		select {
		case <-ctx.Done():
			return
		case <-time.After(keeperTick):
		}
		sessions = slices.DeleteFunc(sessions, func(s *session) bool { return s.sock.ending() })
	}
}

func (k *keeper) call(ctx context.Context, sessions []*session) (*roomv1.RenewLeasesResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	req := &roomv1.RenewLeasesRequest{
		GatewayId: k.g.cfg.ID, SentTime: k.g.redisTime(0), Sessions: make([]*roomv1.SessionRef, len(sessions)),
	}
	for i, s := range sessions {
		req.Sessions[i] = &roomv1.SessionRef{RoomId: s.joined.RoomID, SessionId: s.id, Epoch: s.joined.Epoch}
	}
	return k.g.cfg.Rooms.RenewLeases(ctx, req)
}

// renewed counts the leases from when the call was sent: Redis ends them no earlier.
func (k *keeper) renewed(sessions []*session, resp *roomv1.RenewLeasesResponse, sent time.Duration) {
	lost := make(map[string]roomv1.LostSession_Cause, len(resp.GetLost()))
	for _, l := range resp.GetLost() {
		lost[l.GetSessionId()] = l.GetCause()
	}
	ends := sent + wire.Lease
	if l := resp.GetLease(); l != nil {
		ends = sent + min(l.AsDuration(), wire.Lease)
	}
	for _, s := range sessions {
		cause, gone := lost[s.id]
		if !gone {
			s.leasedUntil(ends)
			continue
		}
		if s.leaving.Load() {
			continue
		}
		switch cause {
		case roomv1.LostSession_CAUSE_REPLACED:
			s.close(wire.CloseReplaced)
		case roomv1.LostSession_CAUSE_ROOM_GONE:
			s.close(wire.CloseRoomDeleted)
		case roomv1.LostSession_CAUSE_REMOVED:
			s.close(wire.CloseRemoved)
		default:
			s.close(wire.CloseLeaseLost)
		}
	}
	k.g.metrics.renewals.With(renewalLost).Add(len(lost))
	k.g.metrics.renewals.With(renewalRenewed).Add(len(sessions) - len(lost))
}

// verify asks why a session's message was refused for want of a seat, and closes it.
func (k *keeper) verify(s *session) {
	k.calls.Go(func() { k.renew(k.g.hub.ctx, []*session{s}) })
}
