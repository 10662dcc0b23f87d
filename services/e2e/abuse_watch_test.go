package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
)

// The honest rooms, which nothing may disturb: two of the members talk.
const (
	choirRooms   = 5
	choirMembers = 4
	choirPause   = 125 * time.Millisecond
)

// choir is the honest rooms of a gateway, and how long their messages take.
type choir struct {
	*testing.T

	mu        sync.Mutex // guards what follows
	latencies []time.Duration
}

// sing starts the rooms; they go on until ctx ends, and nobody may leave before.
func (v *venue) sing(ctx context.Context, t *testing.T, singing *sync.WaitGroup) *choir {
	c := &choir{T: t}
	for range choirRooms {
		room := v.room(t, client.RoomSpec{Capacity: choirMembers})
		for i := range choirMembers {
			s := v.join(t, v.Gateways[0].URL(), room.RoomID, v.identity(t, ""))
			singing.Go(func() { c.hear(ctx, s) })
			if i < 2 {
				singing.Go(func() { c.talk(ctx, s) })
			}
		}
	}
	return c
}

func (c *choir) talk(ctx context.Context, s *client.Session) {
	tick := time.NewTicker(choirPause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.Send(ctx, "", time.Now().UnixNano()); err != nil && ctx.Err() == nil {
			c.Errorf("an honest member cannot talk: %v", err)
			return
		}
	}
}

func (c *choir) hear(ctx context.Context, s *client.Session) {
	for {
		f, err := s.Receive(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			c.Errorf("an honest member is gone: %v", err)
			return
		}
		var sent int64
		switch {
		case f.Type == wire.TypeError:
			c.Errorf("an honest member got %+v", f)
		case f.Type == wire.TypeMessage && json.Unmarshal(f.Body, &sent) == nil:
			c.mu.Lock()
			c.latencies = append(c.latencies, time.Since(time.Unix(0, sent)))
			c.mu.Unlock()
		}
	}
}

// p99 tells how long messages took since it was asked last, and how many came.
func (c *choir) p99() (p99 time.Duration, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.latencies
	c.latencies = nil
	if len(l) == 0 {
		return 0, 0
	}
	slices.Sort(l)
	return l[len(l)*99/100], len(l)
}

// vitals are what a gateway says of itself, behind a garbage collection.
type vitals struct {
	resident, heap float64 // bytes
	goroutines     float64
	cpu            float64 // seconds since its start
	at             time.Time
}

func (v *venue) vitals(t *testing.T, g *cluster.Process) (now vitals) {
	t.Helper()
	get := func(path string) *http.Response {
		req, err := http.NewRequestWithContext(within(t, soon), http.MethodGet, g.AdminURL()+path, nil)
		must(t, err)
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		return resp
	}
	now.at = time.Now()
	profile := get("/debug/pprof/heap?gc=1")
	_, _ = io.Copy(io.Discard, profile.Body)
	_ = profile.Body.Close()
	resp := get("/metrics")
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		n, _ := strconv.ParseFloat(value, 64)
		switch name {
		case "process_resident_memory_bytes":
			now.resident = n
		case "go_memstats_heap_inuse_bytes":
			now.heap = n
		case "go_goroutines":
			now.goroutines = n
		case "process_cpu_seconds_total":
			now.cpu = n
		}
	}
	return now
}

// load is how many cores the gateway was using on average since before.
func (v vitals) load(before vitals) float64 {
	return (v.cpu - before.cpu) / v.at.Sub(before.at).Seconds()
}

func (v vitals) String() string {
	return fmt.Sprintf("%.0f/%.0f MiB", v.resident/(1<<20), v.heap/(1<<20))
}
