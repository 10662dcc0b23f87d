package vec

import (
	"strings"
	"sync"
	"testing"

	"github.com/VictoriaMetrics/metrics"
)

func text(set *metrics.Set) string {
	var s strings.Builder
	set.WritePrometheus(&s)
	return s.String()
}

func TestMetricsAreToldApartByLabels(t *testing.T) {
	set := metrics.NewSet()
	calls := NewCounters(set, "calls_total", "code", "method")
	took := NewHistograms(set, []float64{.001, 1}, "seconds", "method")
	if got := text(set); got != "" {
		t.Errorf("before the first event:\n%s", got)
	}
	calls.With("OK", "Join").Inc()
	calls.With("OK", "Join").Add(2)
	calls.With("Join", "OK").Inc()
	took.With("Join").Update(.001)
	took.With("Join").Update(.5)
	took.With("Join").Update(2)
	const want = `calls_total{code="Join",method="OK"} 1
calls_total{code="OK",method="Join"} 3
seconds_bucket{method="Join",le="0.001"} 1
seconds_bucket{method="Join",le="1"} 2
seconds_bucket{method="Join",le="+Inf"} 3
seconds_sum{method="Join"} 2.501
seconds_count{method="Join"} 3
`
	if got := text(set); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

func TestWhatIsKnownBeginsAtZero(t *testing.T) {
	set := metrics.NewSet()
	v := NewCounters(set, "drops_total", "reason")
	Begin(v, "full", "late")
	v.With("late").Inc()
	Begin(v, "late")
	if got, want := text(set), "drops_total{reason=\"full\"} 0\ndrops_total{reason=\"late\"} 1\n"; got != want {
		t.Errorf("got %swant %s", got, want)
	}
}

func TestVecsOfOneSetShareTheirMetrics(t *testing.T) {
	set := metrics.NewSet()
	var all sync.WaitGroup
	for range 4 {
		v := NewCounters(set, "calls_total", "code")
		for range 2 {
			all.Go(func() { v.With("OK").Inc() })
		}
	}
	all.Wait()
	if got := text(set); got != "calls_total{code=\"OK\"} 8\n" {
		t.Error(got)
	}
}

func TestNoValueBreaksTheText(t *testing.T) {
	set := metrics.NewSet()
	v := NewCounters(set, "calls_total", "code", "route")
	v.With("a\"} 1\nb\\", "GET /{id},x=\"y\xff").Inc()
	if got, want := text(set), `calls_total{code="a\"} 1\nb\\",route="GET /{id},x=\"y`+"\uFFFD\"} 1\n"; got != want {
		t.Errorf("got %swant %s", got, want)
	}
}

func TestOtherLabelsAreADefect(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	NewCounters(metrics.NewSet(), "calls_total", "code").With("OK", "Join")
}

func TestAMetricThatIsThereCostsNoMemory(t *testing.T) {
	v := NewCounters(metrics.NewSet(), "calls_total", "code", "method")
	if n := testing.AllocsPerRun(100, func() { v.With("OK", "Join").Inc() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
