package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
)

// fault is something that is done to a process, and undone after a while.
type fault struct {
	at    time.Duration // into its phase
	does  string        // kill (-9), stop (cleanly) or pause (SIGSTOP)
	to    *cluster.Process
	lasts time.Duration
}

func (f fault) String() string {
	return fmt.Sprintf("%s %s for %.1f s", f.does, f.to.Name, f.lasts.Seconds())
}

// plan makes the faults of a run. The phases follow one another, each from the end of the one
// before: Redis, a round of gateways and room services, Redis, a second round, Redis. The
// seed decides which processes are struck, when and for how long. The plan always ensures
// that
//
//   - at any time, a gateway and a room service are neither dead nor paused
//   - in a round, a pause is longer than the leases
//   - Redis is there in the 17 s after a gateway's death, which I8 needs
//   - when Redis stands still, a gateway and a room service do so too, from before and for a
//     little longer: so calls pile up in front of each, and when they are read, their callers
//     have given up
//   - Redis is never away as long as a lease: then all leases would end, which
//     TestMembersComeBackByThemselvesAfterALongOutageOfRedis covers
func plan(rng *rand.Rand, v *venue) (phases [][]fault) {
	between := func(from, to float64) time.Duration {
		return time.Duration((from + rng.Float64()*(to-from)) * float64(time.Second))
	}
	still := fault{between(1, 2), "pause", v.Redis, between(3, 6)}
	around := func(p *cluster.Process) fault {
		return fault{between(0, 1), "pause", p, still.at + still.lasts + between(0.2, 1.5)}
	}
	redis := [][]fault{
		{{between(1, 2), "kill", v.Redis, between(0.1, 2)}},
		{{between(1, 2), "stop", v.Redis, between(0.1, 2)}},
		{still, around(v.Gateways[rng.IntN(len(v.Gateways))]), around(v.Cluster.Rooms[rng.IntN(len(v.Cluster.Rooms))])},
	}
	rng.Shuffle(len(redis), func(i, j int) { redis[i], redis[j] = redis[j], redis[i] })
	for i := range redis {
		phases = append(phases, redis[i])
		if i == len(redis)-1 {
			break
		}
		g, r := rng.Perm(len(v.Gateways)), rng.Perm(len(v.Cluster.Rooms))
		round := []fault{
			{between(4, 5), "kill", v.Gateways[g[0]], between(0.5, 3)},
			{between(4, 6), "pause", v.Gateways[g[1]], between(16, 18)},
			{between(9, 10), "kill", v.Gateways[g[2]], between(0.5, 3)},
			{between(4, 6), "kill", v.Cluster.Rooms[r[0]], between(0.1, 2)},
			{between(9, 10), "pause", v.Cluster.Rooms[r[1]], between(16, 18)},
		}
		slices.SortFunc(round, func(a, b fault) int { return cmp.Compare(a.at, b.at) })
		phases = append(phases, round)
	}
	return phases
}

// chaos strikes a cluster with faults.
type chaos struct {
	*testing.T
	v     *venue
	watch *watch

	mu      sync.Mutex // guards what follows
	counts  map[string]int
	longest time.Duration // longest time until all watched seats of a killed gateway were free
	watched int           // how many seats of killed gateways were watched
}

// strike carries a plan out, and returns when everything is undone and measured.
func (c *chaos) strike(phases [][]fault) {
	for _, faults := range phases {
		began := time.Now()
		var all sync.WaitGroup
		for _, f := range faults {
			all.Go(func() {
				if err := c.one(f, began); err != nil {
					c.Errorf("%v: %v", f, err)
				}
			})
		}
		all.Wait()
	}
}

func (c *chaos) one(f fault, phase time.Time) error {
	var room string
	if f.does == "kill" && slices.Contains(c.v.Gateways, f.to) {
		room = c.seatWitnesses(f.to, phase.Add(f.at))
	}
	time.Sleep(time.Until(phase.Add(f.at)))
	c.Logf("%s %v", time.Now().Format("15:04:05.000"), f)
	if err := c.do(f); err != nil {
		return err
	}
	c.count(f)
	died := time.Now()
	var watching sync.WaitGroup
	defer watching.Wait()
	if room != "" {
		c.watch.gatewayKilled(f.to.Name)
		watching.Go(func() { c.witness(room, f, died) })
	}
	return c.undoAfter(f, died.Add(f.lasts))
}

// undoAfter undoes a fault at the time ends.
func (c *chaos) undoAfter(f fault, ends time.Time) error {
	if f.to != c.v.Redis {
		time.Sleep(time.Until(ends))
		return c.undo(f)
	}
	for time.Now().Before(ends) {
		c.watch.redisAway()
		time.Sleep(50 * time.Millisecond)
	}
	err := c.undo(f)
	c.watch.redisAway()
	c.Logf("%s Redis is back after %.1f s", time.Now().Format("15:04:05.000"), f.lasts.Seconds()+time.Since(ends).Seconds())
	return err
}

func (c *chaos) do(f fault) error {
	switch f.does {
	case "kill":
		return f.to.Kill()
	case "stop":
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		return f.to.Stop(ctx)
	}
	return f.to.Pause()
}

func (c *chaos) undo(f fault) error {
	if f.does == "pause" {
		return f.to.Resume()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*soon)
	defer cancel()
	return f.to.Start(ctx)
}

// count counts a fault by its kind, without the number in the name of the process.
func (c *chaos) count(f fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[f.does+" "+strings.TrimRight(f.to.Name, "0123456789")]++
}

// faults lists how many there were of each kind.
func (c *chaos) faults() string {
	var kinds []string
	total := 0
	for _, kind := range slices.Sorted(maps.Keys(c.counts)) {
		kinds = append(kinds, fmt.Sprintf("%d %s", c.counts[kind], kind))
		total += c.counts[kind]
	}
	return fmt.Sprintf("%d: %s", total, strings.Join(kinds, ", "))
}

// seatWitnesses fills a room with users of one gateway, who do nothing: when the gateway dies,
// only the reaper frees their seats. It returns no room if that cannot be done in time.
func (c *chaos) seatWitnesses(gateway *cluster.Process, until time.Time) (roomID string) {
	ctx, cancel := context.WithDeadline(c.Context(), until)
	defer cancel()
	at, err := c.v.At(gateway.URL())
	must(c.T, err)
	room := client.RoomSpec{Capacity: chaosCapacity, RoomID: "witness-" + gateway.Name + until.Format("-150405")}
	for seated := 0; seated < chaosCapacity; {
		var s *client.Session
		if _, err = at.CreateRoom(ctx, room); err == nil || errors.Is(err, &wire.Error{Code: wire.RoomExists}) {
			s, err = at.Join(ctx, client.JoinOptions{RoomID: room.RoomID})
		}
		if ctx.Err() != nil {
			c.Logf("nobody watches the death of %s: %v", gateway.Name, err)
			return ""
		}
		if err != nil { // for instance because a room service has just been killed
			time.Sleep(50 * time.Millisecond)
			continue
		}
		c.Cleanup(s.Abort)
		seated++
	}
	return room.RoomID
}

// witness measures how long the seats of a killed gateway stay taken.
func (c *chaos) witness(roomID string, f fault, died time.Time) {
	sessions := c.v.Layout().Keys(roomID).Sessions()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		n, err := c.v.redis.HLen(ctx, sessions).Result()
		cancel()
		taken := time.Since(died)
		if err == nil && n == 0 {
			c.freed(f, taken)
			return
		}
		if taken > 2*freedWithin {
			c.Errorf("%v: %d seats are still taken %v later (%v)", f, n, taken, err)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (c *chaos) freed(f fault, taken time.Duration) {
	c.Logf("%v: its seats were free after %.2f s", f, taken.Seconds())
	if taken > freedWithin || taken < wire.Lease-wire.RenewEvery-time.Second {
		c.Errorf("%v: its seats were free after %v", f, taken)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.longest = max(c.longest, taken)
	c.watched += chaosCapacity
}
