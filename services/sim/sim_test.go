package sim

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

var (
	firstSeed = flag.Uint64("seed", 1, "first seed of TestSimulation and TestSoak")
	seeds     = flag.Int("seeds", defaultSeeds, "seeds of TestSimulation")
	steps     = flag.Int("steps", 0, "steps of a seed; 0: the usual number")
	first     = flag.Bool("first", false, "stop at the first seed that fails")
	story     = flag.Bool("story", false, "tell what happened")
	shrink    = flag.Int("shrink", 150, "runs to spend on a shorter story of a failure")
	repeat    = flag.Int("repeat", 1, "how often TestSimulation runs each seed")
	soak      = flag.Duration("soak", 0, "how long TestSoak runs; 0: not at all")
)

func TestMain(m *testing.M) {
	flag.Parse()
	// On one processor Go hardly varies the order in which it runs goroutines that are
	// ready. So a seed can be replayed, except for what Go chooses at random: the order of
	// maps, and of the cases of select.
	runtime.GOMAXPROCS(1)
	// Each run of a script makes a new Lua state, most of which is garbage afterwards. With
	// 400 %, the collector took a quarter of the time.
	debug.SetGCPercent(1600)
	debug.SetMemoryLimit(512 << 20)
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	os.Exit(m.Run())
}

// try runs a plan. If it fails, try logs the shortest plan that it finds for the failure.
func try(t *testing.T, p Plan, sum *totals) {
	t.Helper()
	c := Config{Steps: *steps, Trace: *story}
	r := Run(t, p, c)
	sum.add(r)
	for _, line := range r.Trace {
		t.Log(line)
	}
	if len(r.Violations) == 0 {
		return
	}
	for _, v := range r.Violations {
		t.Error(v)
	}
	t.Logf("again: go test ./services/sim -run TestSimulation -v -args -seed %d -seeds 1 -story", p.Seed)
	if *shrink > 0 && !*story {
		c.Trace = true
		short := Shrink(t, r, c, *shrink)
		t.Logf("the plan, as far as it could be shortened:\n%s\nwhat happened:\n%s\n%v",
			short.Plan, strings.Join(short.Trace, "\n"), short.Violations)
	}
}

func TestSimulation(t *testing.T) {
	sum := newTotals()
	t.Run("seeds", func(t *testing.T) {
		for i := range *seeds * *repeat {
			seed := *firstSeed + uint64(i / *repeat)
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				if *first && sum.failed() {
					t.Skip("one has failed")
				}
				try(t, NewPlan(seed, Config{Steps: *steps}), sum)
			})
		}
	})
	fmt.Println(sum)
	if missing := sum.missing(); len(missing) > 0 && *steps == 0 && !t.Failed() {
		t.Errorf("too few seeds reached %s", strings.Join(missing, ", "))
	}
}

// TestRegressions runs the plans of defects that were found and fixed. They are kept as
// plans because the same seed may make another plan one day.
func TestRegressions(t *testing.T) {
	files, err := filepath.Glob("testdata/*.plan")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".plan"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p, err := ParsePlan(string(text))
			if err != nil {
				t.Fatal(err)
			}
			try(t, p, newTotals())
		})
	}
}

func TestAPlanWrittenDownIsTheSamePlan(t *testing.T) {
	p := NewPlan(7, Config{})
	read, err := ParsePlan(p.String())
	if err != nil {
		t.Fatal(err)
	}
	if read.String() != p.String() {
		t.Errorf("wrote\n%s\nread\n%s", p, read)
	}
}

// TestSoak runs seeds until the time of -soak is over, an interrupt comes, or one fails.
func TestSoak(t *testing.T) {
	if *soak == 0 {
		t.Skip("-soak says for how long")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *soak)
	defer cancel()
	sum := newTotals()
	told := time.Now()
	for seed := *firstSeed; ctx.Err() == nil && !t.Failed(); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { try(t, NewPlan(seed, Config{Steps: *steps}), sum) })
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			fmt.Println(sum.rate())
		}
	}
	fmt.Println(sum)
}
