package e2e

import (
	"runtime"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
	"github.com/anteroom-chat/anteroom/services/pace"
)

// bare starts a cluster like the one that `make bench` measures.
func bare(tb testing.TB) (*cluster.Cluster, pace.Config) {
	tb.Helper()
	c := cluster.Start(tb, cluster.Options{Rooms: 1, Gateways: 2, NoProxy: true, Settings: []string{"MESSAGE_RATE=0"}})
	cfg := pace.Config{Warmup: 100 * time.Millisecond, Window: time.Second, RawWrite: 50 * time.Millisecond}
	for _, g := range c.Gateways {
		cfg.Targets = append(cfg.Targets, g.URL())
	}
	for _, p := range c.Processes() {
		cfg.Processes = append(cfg.Processes, pace.Process{Name: p.Name, PID: p.PID(), Admin: p.AdminURL()})
	}
	return c, cfg
}

func TestEveryKindOfLoadIsMeasuredAndDeliveredOnce(t *testing.T) {
	t.Parallel()
	_, cfg := bare(t)
	for _, shape := range []pace.Shape{
		{Name: "paced", Rooms: 3, Size: 4, Rate: 60},
		{Name: "paced-count", Rooms: 1, Size: 300, Rate: 5}, // presence is count there
		{Name: "burst", Kind: pace.Burst, Rooms: 3, Size: 5, Senders: 2, InFlight: 4},
		{Name: "idle", Kind: pace.Idle, Rooms: 3, Size: 4},
		{Name: "join", Kind: pace.Join, Rooms: 5, Size: 4},
	} {
		cfg.Shape = shape
		r, err := pace.Run(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if r.Failed() {
			t.Errorf("%s: %d missing, %d double, %d refused, %d closed %s", r.Shape, r.Missing, r.Double, r.Refused, r.Closed, r.FirstClose)
		}
		talks := shape.Kind == pace.Paced || shape.Kind == pace.Burst
		for what, is := range map[string]bool{
			"messages":   r.Sent > 0 && r.Messages > 0,
			"deliveries": r.Deliveries > 0,
			"joins":      r.Joins > 0,
			"latency":    r.Samples > 0 && r.P50 > 0 && r.P50 <= r.P99,
		} {
			want := what == "joins" && shape.Kind == pace.Join || what == "latency" && shape.Kind == pace.Join ||
				what != "joins" && talks
			if is != want {
				t.Errorf("%s: %s measured: %v\n%+v", r.Shape, what, is, r)
			}
		}
		// The CPU time of other processes is known only on Linux.
		if runtime.GOOS == "linux" && (r.ServerCores <= 0 || r.RawWrite <= 0 || talks && r.Ratio <= 0) {
			t.Errorf("%s: the servers used %v cores, %v of a raw write of %v µs for a delivery", r.Shape, r.ServerCores, r.Ratio, r.RawWrite)
		}
	}
}

// BenchmarkThousandJoins makes a thousand joins (reserve, connect, confirm) at real processes
// in each iteration.
func BenchmarkThousandJoins(b *testing.B) {
	_, cfg := bare(b)
	cfg.Shape = pace.Shape{Name: "join", Kind: pace.Join, Rooms: 250, Size: 4}
	var joins, cpu, p99 float64
	for b.Loop() {
		r, err := pace.Run(b.Context(), cfg)
		if err != nil {
			b.Fatal(err)
		}
		joins, cpu, p99 = joins+r.Joins, cpu+r.JoinCPU, p99+r.P99
	}
	n := float64(b.N)
	b.ReportMetric(joins/n, "joins/s")
	b.ReportMetric(cpu/n, "server-µs/join")
	b.ReportMetric(p99/n, "p99-ms")
}
