package e2e

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
)

// Not parallel: a thousand members need both cores.
func TestRollingRestart(t *testing.T) {
	v := start(t, cluster.Options{})
	k := startTalk(t, v, talkOptions{rooms: 100, each: 10, every: 5 * time.Second})
	r := reserveOn(t, v)
	began := time.Now()
	for _, p := range v.Processes() {
		if p == v.Redis || p == v.Proxy {
			continue
		}
		restarted := time.Now()
		must(t, p.Restart(within(t, drainedWithin+2*soon)))
		t.Logf("%s was replaced within %.1f s", p.Name, time.Since(restarted).Seconds())
	}
	took(t, "all room services and gateways were replaced one by one", time.Since(began))
	k.settled(3*soon, nil)
	r.stop()
	k.finish(3 * soon)
	k.table("rolling restart of 2 room services and 3 gateways",
		[2]any{"reservations made", r.made},
		[2]any{"reservations refused with ROOM_FULL", r.full},
		[2]any{"reservations refused otherwise", len(r.failures)})
	k.judge()
	for _, err := range r.failures {
		t.Errorf("a reservation was refused: %v", err)
	}
	if r.made == 0 || r.full == 0 {
		t.Errorf("%d reservations were made and %d refused with ROOM_FULL: both were to be seen", r.made, r.full)
	}
}

// reservers reserve seats and give them back all the time, in a room that is full now and
// then and in one that never is.
type reservers struct {
	stop func()

	mu         sync.Mutex // guards what follows
	made, full int
	failures   []error
}

const reserveEvery = 50 * time.Millisecond

func reserveOn(t *testing.T, v *venue) *reservers {
	t.Helper()
	r := &reservers{}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	r.stop = sync.OnceFunc(func() { cancel(); all.Wait() })
	t.Cleanup(r.stop)
	roomy := v.room(t, client.RoomSpec{Capacity: 10, EmptyTimeout: 10 * time.Minute})
	tight := v.room(t, client.RoomSpec{Capacity: 2, EmptyTimeout: 10 * time.Minute})
	for i := range 6 {
		who, roomID := v.identity(t, fmt.Sprintf("R%d", i)), roomy.RoomID
		if i%2 == 1 {
			roomID = tight.RoomID
		}
		all.Go(func() {
			for ctx.Err() == nil {
				r.count(v.reserve(roomID, who))
				select {
				case <-ctx.Done():
				case <-time.After(reserveEvery):
				}
			}
		})
	}
	return r
}

// reserve takes a seat, keeps it for a moment, and gives it back.
func (v *venue) reserve(roomID string, who client.Identity) error {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	permit, err := v.Reserve(ctx, who.Identity, roomID)
	if err != nil {
		return err
	}
	time.Sleep(reserveEvery)
	return v.CancelPermit(ctx, permit)
}

func (r *reservers) count(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil:
		r.made++
	case errors.Is(err, &wire.Error{Code: wire.RoomFull}):
		r.full++
	default:
		r.failures = append(r.failures, err)
	}
}
