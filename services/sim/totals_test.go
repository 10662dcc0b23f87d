package sim

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// totals adds results up.
type totals struct {
	began time.Time

	mu       sync.Mutex
	seeds    int
	idle     int // operations for which there was nothing to do
	total    Result
	reached  map[string]int // seeds that reached a state, by name
	failures int
}

func newTotals() *totals {
	return &totals{
		began: time.Now(), total: Result{Faults: make(map[string]int), Outcomes: make(map[string]int)},
		reached: make(map[string]int),
	}
}

func (s *totals) add(r Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seeds++
	s.total.Operations += r.Operations
	s.total.Calls += r.Calls
	s.total.Entries += r.Entries
	s.total.Sessions += r.Sessions
	s.total.Freed += r.Freed
	s.total.Longest = max(s.total.Longest, r.Longest)
	s.total.Span += r.Span
	s.total.Undecided += r.Undecided
	s.failures += len(r.Violations)
	for state := range r.Reached {
		s.reached[state]++
	}
	for k, n := range r.Faults {
		s.total.Faults[k] += n
	}
	for k, n := range r.Outcomes {
		s.total.Outcomes[k] += n
		if strings.HasSuffix(k, errNothing.Error()) {
			s.idle += n
		}
	}
}

func (s *totals) failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failures > 0
}

// missing lists the states that too few seeds reached, if there were enough seeds to tell.
func (s *totals) missing() (states []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for state, of100 := range mustReach {
		if s.seeds >= enoughSeeds && s.reached[state]*100 < of100*s.seeds {
			states = append(states, fmt.Sprintf("%s (%d of %d seeds)", state, s.reached[state], s.seeds))
		}
	}
	slices.Sort(states)
	return states
}

// enoughSeeds is how many seeds reach all that is rare about as often as many do.
const enoughSeeds = 50

// rate returns a line that says how fast the seeds run.
func (s *totals) rate() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	took := time.Since(s.began)
	return fmt.Sprintf("%v: %d seeds, %.1f seeds/s, %.0f operations/s, %d violations", took.Round(time.Second),
		s.seeds, float64(s.seeds)/took.Seconds(), float64(s.total.Operations)/took.Seconds(), s.failures)
}

// String returns the table that a run ends with.
func (s *totals) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	faults := 0
	for _, n := range s.total.Faults {
		faults += n
	}
	t := s.total
	return fmt.Sprintf(`seeds %d in %v (%v of virtual time), violations %d
operations %d (%d of them found nothing to do), calls carried out %d, sessions %d, log entries %d
rooms whose calls were too many to be put in order: %d
seats of dead processes that came back %d, the last after %v
seeds that reached what is rare: %s
faults %d: %s
outcomes: %s`,
		s.seeds, time.Since(s.began).Round(time.Millisecond), t.Span.Round(time.Second), s.failures,
		t.Operations, s.idle, t.Calls, t.Sessions, t.Entries, t.Undecided,
		t.Freed, t.Longest.Round(time.Millisecond), Table(s.reached), faults, Table(t.Faults), Table(t.Outcomes))
}
