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
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
)

const (
	keeperTick   = 500 * time.Millisecond
	renewTicks   = int(wire.RenewEvery / keeperTick)
	pingTicks    = int(wire.PingEvery / keeperTick)
	renewChunk   = 5_000 // sessions in one call
	renewTimeout = 2 * time.Second
	// fence is how long before its lease ends a session is closed: two ticks, so that a tick that
	// comes late still comes in time. If a tick comes even later, see fenceIfLapsed.
	fence = 2 * keeperTick
)

// keeper keeps sessions alive and ends those that are dead. It renews their leases in batches,
// pings their peers, drops peers that are silent, and closes a session whose lease cannot be
// renewed before that lease ends.
type keeper struct {
	g *Gateway

	// Owned by the goroutine of serve.
	ticked     time.Duration // clock of the last tick
	tickNumber int           // number of that tick
	suspended  bool          // that tick came after a suspension of this process and renewed nothing

	mu      sync.Mutex
	cohorts [pingTicks]cohort
	next    int  // counts sessions, to spread them over the cohorts
	kicked  bool // renew all leases at the next tick: notices may be lost
	memory  memory

	calls sync.WaitGroup
	warn  rate.Sometimes // for failed renewals, each of which is tried twice a second while Redis is away
}

// cohort is a set of sessions that are pinged at the same tick, one in pingTicks. Their leases
// are renewed at that tick and at every renewTicks-th tick from there. At other ticks a cohort
// is skipped while its sessions are quiet: to look at a session means to read cold memory, and
// 10,000 of these reads twice a second are expensive.
type cohort struct {
	sessions map[*session]struct{}
	// look is the clock when the first of these sessions may have to end, as of the last time that
	// they were looked at. A session that was added since lives at least until the next renewal,
	// when all of them are looked at again.
	look  time.Duration
	talks atomic.Bool // a session has talked, whose echo may be late
}

func newKeeper(g *Gateway) *keeper {
	k := &keeper{g: g, warn: rate.Sometimes{Interval: wire.RenewEvery}}
	for i := range k.cohorts {
		k.cohorts[i].sessions = make(map[*session]struct{})
	}
	return k
}

// cohortOf returns the tick, modulo renewTicks, at which a group's leases are renewed. If
// there are enough partitions, it is the same tick for all rooms of a partition that have one
// group, so that few runs of a script renew many leases.
func (k *keeper) cohortOf(group uint32) int {
	if partitions := k.g.cfg.Layout.Partitions; partitions >= renewTicks {
		group %= uint32(partitions) // for a room's first group, this is the room's partition
	}
	return int(group % uint32(renewTicks))
}

// add takes care of a session from the start of its socket. Its lease is renewed once it has
// joined.
func (k *keeper) add(s *session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.put(s, k.next%pingTicks)
	k.memory.note(k.g.hub.clock())
}

// group moves a session to one of the cohorts that are renewed at its group's tick.
func (k *keeper) group(s *session, group uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(s.cohort.sessions, s)
	k.put(s, k.cohortOf(group)+k.next%(pingTicks/renewTicks)*renewTicks)
}

func (k *keeper) put(s *session, cohort int) {
	k.next++
	s.cohort = &k.cohorts[cohort]
	s.cohort.sessions[s] = struct{}{}
	if s.talks.Load() {
		s.cohort.talks.Store(true)
	}
}

func (k *keeper) remove(s *session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(s.cohort.sessions, s)
	k.memory.note(k.g.hub.clock())
}

// all returns every session, including those that have not joined yet.
func (k *keeper) all() []*session {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []*session
	for i := range k.cohorts {
		all = slices.AppendSeq(all, maps.Keys(k.cohorts[i].sessions))
	}
	return all
}

// count returns the number of sockets.
func (k *keeper) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := 0
	for i := range k.cohorts {
		n += len(k.cohorts[i].sessions)
	}
	return n
}

// kick makes the next tick renew every lease, since notices of takeovers may have been lost.
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
		if k.suspended {
			tick.Reset(keeperTick) // otherwise the next one would come sooner
		}
	}
}

// tick looks at the sessions, and renews the leases of the cohorts whose tick has come.
func (k *keeper) tick(ctx context.Context) {
	due, collect := k.look(k.g.hub.clock())
	if collect {
		// Not debug.FreeOSMemory, which stops a gateway of one core for 100 ms: the runtime gives back
		// the collected memory little by little. The second collection also finds what pools had kept,
		// and then knows how little memory is in use.
		k.calls.Go(func() { runtime.GC(); runtime.GC() })
	}
	for ; len(due) > 0; due = due[min(len(due), renewChunk):] {
		chunk := due[:min(len(due), renewChunk)]
		k.calls.Go(func() { k.renew(ctx, chunk) })
	}
}

// look handles all ticks that have passed since the last one. If ticks come late and only one
// was handled, some sessions would be pinged too late and dropped as silent. It returns the
// sessions whose leases must be renewed, and whether to collect garbage.
func (k *keeper) look(now time.Duration) (due []*session, collect bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	first := k.tickNumber + 1
	k.tickNumber = max(int(now/keeperTick), first)
	passed := func(tick, of int) bool { return (tick-first%of+of)%of <= k.tickNumber-first }
	// After a suspension of this process, disconnects that happened meanwhile have not been read
	// yet. This tick renews nothing, so that those leases do not start over; the next one renews
	// the rest, however late it is. A renewal that is being retried goes on all the same.
	elapsed := now - k.ticked
	k.suspended = elapsed > 2*keeperTick && !k.suspended
	k.ticked = now
	for i := range k.cohorts {
		c := &k.cohorts[i]
		renew := k.kicked || passed(i%renewTicks, renewTicks)
		if k.suspended || renew || c.talks.Load() || now >= c.look {
			due = k.lookAt(c, now, elapsed, passed(i, pingTicks), renew && !k.suspended, due)
		}
	}
	k.kicked = k.suspended
	return due, k.memory.due(now)
}

// lookAt ends the sessions of a cohort that have to end. If ping is set, it pings the others.
// If renew is set, it appends to due those that have a lease.
func (k *keeper) lookAt(c *cohort, now, elapsed time.Duration, ping, renew bool, due []*session) []*session {
	c.talks.Store(false)
	c.look = math.MaxInt64
	for s := range c.sessions {
		if k.suspended { // nobody was pinged and nothing was read: that time is not silence
			heard := s.heardAt.Load()
			s.heardAt.CompareAndSwap(heard, min(heard+int64(elapsed), int64(now)))
		}
		if s.endIfDue(now, k.suspended) {
			c.look = now
			continue
		}
		c.look = min(c.look, s.endsAt())
		s.calm(now)
		if s.talks.Load() {
			c.talks.Store(true)
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

// renew renews leases, and tries again until that works or the sessions' next renewal is due.
// Between two tries it drops the sessions that have ended.
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
		GatewayId: k.g.cfg.ID,
		SentTime:  timestamppb.New(k.g.hub.subs.RedisTime()), // known: no session joins before
		Sessions:  make([]*roomv1.SessionRef, len(sessions)),
	}
	for i, s := range sessions {
		req.Sessions[i] = &roomv1.SessionRef{RoomId: s.joined.RoomID, SessionId: s.id, Epoch: s.joined.Epoch}
	}
	return k.g.cfg.Rooms.RenewLeases(ctx, req)
}

// renewed handles the answer to a renewal. It counts the leases from when the call was sent:
// Redis does not end them earlier.
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
		if s.givingUpSeat.Load() {
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

// verify renews the lease of a session whose message was refused for lack of a seat. If the
// seat is gone, the renewal tells why and closes the session.
func (k *keeper) verify(s *session) {
	k.calls.Go(func() { k.renew(k.g.hub.ctx, []*session{s}) })
}
