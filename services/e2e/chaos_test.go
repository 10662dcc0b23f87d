package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
	"github.com/anteroom-chat/anteroom/services/load"
)

const (
	chaosUsers    = 2000
	chaosRooms    = 150
	chaosCapacity = 8
	// chaosStorm is how long the storm of the users lasts at most. The faults take about
	// 65 s; the users leave chaosMends after the last one.
	chaosStorm = 2 * time.Minute
	chaosMends = 5 * time.Second
	// chaosPace slows the users down, so that 2 cores are enough for them and all processes.
	chaosPace = 4
	// chaosSeed is the environment variable that repeats the faults of a run, and what its
	// users do.
	chaosSeed = "CHAOS_SEED"
)

// Not parallel: the other tests measure times, and so does this one.
func TestChaos(t *testing.T) {
	seed := rand.Uint64()
	if text, ok := os.LookupEnv(chaosSeed); ok {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		must(t, err)
	}
	t.Logf("%s=%d", chaosSeed, seed)
	v := start(t, cluster.Options{})
	c := &chaos{T: t, v: v, watch: newWatch(v), counts: make(map[string]int)}

	watching, stopWatching := context.WithCancel(t.Context())
	var beside sync.WaitGroup
	beside.Go(func() { c.watch.run(watching) })
	var mended atomic.Bool
	beside.Go(func() {
		c.strikeStorm(watching, plan(rand.New(rand.NewPCG(seed, 0)), v))
		if watching.Err() == nil {
			time.Sleep(chaosMends)
		}
		mended.Store(true)
	})
	report, err := load.Check(t.Context(), load.Config{
		Targets: []string{v.URL()}, Users: chaosUsers, Rooms: chaosRooms, Capacity: chaosCapacity,
		Duration: chaosStorm, MessageRate: 0.3, Pace: chaosPace, Seed: seed,
		Enough: func(load.Report) bool { return mended.Load() },
	})
	if err == nil && !mended.Load() {
		c.Errorf("the faults were not over and mended within %v", chaosStorm)
	}
	leaked := c.emptied(time.Now())
	stopWatching()
	beside.Wait()
	c.print(report, leaked)
	must(t, err)
	c.judge(report)
}

// strikeStorm begins to strike when enough seats are taken, since load.Check does not tell when
// the storm has begun.
func (c *chaos) strikeStorm(ctx context.Context, phases [][]fault) {
	for c.watch.taken() < chaosUsers/10 {
		if ctx.Err() != nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	began := time.Now()
	c.strike(phases)
	took(c.T, "all faults", time.Since(began))
}

// judge fails the test for every violation.
func (c *chaos) judge(r load.Report) {
	c.Helper()
	if r.Violations > 0 {
		c.Errorf("%d violations", r.Violations) // the table has the first ones
	}
	if c.watched == 0 {
		c.Error("nobody could watch a gateway die")
	}
	if c.watch.looks == 0 {
		c.Error("never was all of Redis looked at")
	}
	for i, problem := range c.watch.problems {
		if i == 40 {
			c.Errorf("and %d more", len(c.watch.problems)-i)
			break
		}
		c.Error(problem)
	}
}

// emptied waits until Redis holds only the cluster's own key, and the ids of sessions that
// ended in the last two minutes. If that does not happen, it fails the test and returns the
// number of seats that are left.
func (c *chaos) emptied(gone time.Time) (leaked int) {
	c.Helper()
	for {
		left, err := c.keysLeft()
		if err == nil && len(left) == 0 {
			took(c.T, "from the end of the storm until Redis is empty", time.Since(gone))
			return 0
		}
		if time.Since(gone) > freedWithin {
			for _, key := range left {
				if strings.HasSuffix(key, ":leases") || strings.HasSuffix(key, ":permits") {
					leaked += int(c.v.redis.ZCard(c.Context(), key).Val())
				}
			}
			c.Errorf("%v after all users went, Redis holds %d keys (%v): %.20q", time.Since(gone), len(left), err, left)
			return leaked
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (c *chaos) keysLeft() (left []string, err error) {
	keys, err := c.v.redis.Keys(c.Context(), "*").Result()
	if err == nil && !slices.Contains(keys, roomlog.ClusterKey) {
		err = errors.New("the cluster's own key is gone")
	}
	for _, key := range keys {
		if key != roomlog.ClusterKey && !c.lapses(key) {
			left = append(left, key)
		}
	}
	return left, err
}

// lapses reports whether a key only holds which sessions ended in the last 2 minutes: a delayed
// ConfirmJoin of one of them must get no seat in the next room with that id.
func (c *chaos) lapses(key string) bool {
	ttl := c.v.redis.PTTL(c.Context(), key).Val()
	return strings.HasSuffix(key, ":spent") && ttl > 0 && ttl <= 2*time.Minute
}

// print logs the table.
func (c *chaos) print(r load.Report, leaked int) {
	c.Helper()
	var text strings.Builder
	_ = r.WriteText(&text)
	w := c.watch
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	row := func(name string, value any) { _, _ = fmt.Fprintf(t, "%s\t%v\n", name, value) }
	row("\nfaults injected", c.faults())
	row("looks into Redis at all rooms", fmt.Sprintf("%d, %d log entries", w.looks, w.entries))
	row("over-capacity moments", int(r.OverCapacity)+w.over)
	row("seqs missing or double", int(r.SeqsMissing+r.SeqsDouble)+w.holes)
	row("seats leaked", int(r.SeatsNotBack)+leaked)
	row("longest to get a seat back after kill -9", fmt.Sprintf("%.2f s of %d seats watched", c.longest.Seconds(), c.watched))
	row("violations", int(r.Violations)+len(w.problems))
	_ = t.Flush()
	c.Log("\n" + text.String())
}
