package sim

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"testing"
	"time"
)

var (
	firstSeed = flag.Uint64("seed", 1, "first seed of TestSimulation")
	seeds     = flag.Int("seeds", 200, "seeds of TestSimulation")
	story     = flag.Bool("story", false, "tell what happened")
)

func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(400) // a script is a new Lua state each: a third of the time was the collector's
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	os.Exit(m.Run())
}

// totals adds results up.
type totals struct {
	mu         sync.Mutex
	seeds      int
	operations int
	calls      int
	entries    int
	sessions   int
	freed      int
	longest    time.Duration
	span       time.Duration
	faults     map[string]int
	outcomes   map[string]int
	violations int
}

func (s *totals) add(r Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seeds++
	s.operations += r.Operations
	s.calls += r.Calls
	s.entries += r.Entries
	s.sessions += r.Sessions
	s.freed += r.Freed
	s.longest = max(s.longest, r.Longest)
	s.span += r.Span
	s.violations += len(r.Violations)
	for k, n := range r.Faults {
		s.faults[k] += n
	}
	for k, n := range r.Outcomes {
		s.outcomes[k] += n
	}
}

func (s *totals) String() string {
	all := 0
	for _, n := range s.faults {
		all += n
	}
	return fmt.Sprintf("seeds %d, operations %d, calls %d, sessions %d, log entries %d, virtual time %v, violations %d\nfaults %d: %s\noperations: %s\nseats of dead processes that came back: %d, the last after %v",
		s.seeds, s.operations, s.calls, s.sessions, s.entries, s.span.Round(time.Second), s.violations,
		all, Table(s.faults), Table(s.outcomes), s.freed, s.longest.Round(time.Millisecond))
}

func TestSimulation(t *testing.T) {
	sum := &totals{faults: make(map[string]int), outcomes: make(map[string]int)}
	began := time.Now()
	t.Run("seeds", func(t *testing.T) {
		for i := range *seeds {
			seed := *firstSeed + uint64(i)
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				r := Run(t, NewPlan(seed, Config{}), Config{Trace: *story})
				sum.add(r)
				for _, line := range r.Trace {
					t.Log(line)
				}
				for _, v := range r.Violations {
					t.Error(v)
				}
			})
		}
	})
	t.Logf("%v in %v", sum, time.Since(began).Round(time.Millisecond))
}
