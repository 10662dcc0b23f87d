package pace

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// WriteTable writes the results for people: one table of messages, one of joins and of
// members who sit still, and what became of the goals.
func WriteTable(w io.Writer, results []Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(cells ...string) { _, _ = fmt.Fprintln(t, strings.Join(cells, "\t")+"\t") } // Flush tells
	row("", "", "msgs", "deliv.", "server CPU/deliv.", "", "gateways", "room", "redis", "/msg", "p50", "p90", "p99", "p99.9", "memory", "driver", "others", "raw write")
	row("shape", "members", "/s", "/s", "µs", "× raw", "µs", "µs", "µs", "µs", "ms", "ms", "ms", "ms", "KiB/member", "cores", "cores", "µs")
	for _, r := range results {
		if r.Deliveries == 0 || r.Joins > 0 {
			continue
		}
		row(r.Shape, r.people(), short(r.Messages), short(r.Deliveries), short(r.Server), short(r.Ratio),
			short(r.PerDelivery[gateways]), short(r.PerDelivery[roomSrvs]), short(r.PerDelivery[redises]), short(r.RedisMessage),
			short(r.P50), short(r.P90), short(r.P99), short(r.P999), short(r.GatewayMemory/1024),
			short(r.Cores[driver]), short(r.OtherLoad), short(r.RawWrite))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if err := writeSeated(w, results); err != nil {
		return err
	}
	return writeGoals(w, results)
}

// people is who takes part: rooms × members of each.
func (r *Result) people() string { return fmt.Sprintf("%d×%d", r.Rooms, r.Size) }

// writeSeated writes the shapes in which nobody talks.
func writeSeated(w io.Writer, results []Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(cells ...string) { _, _ = fmt.Fprintln(t, strings.Join(cells, "\t")+"\t") }
	any := false
	head := func() {
		if !any {
			row("")
			row("", "", "joins", "server CPU/join", "", "gateways", "room", "redis", "p50", "p99", "CPU of all", "gateways", "room", "redis", "memory", "driver", "others", "raw write")
			row("shape", "members", "/s", "µs", "× raw", "µs", "µs", "µs", "ms", "ms", "% of a core", "%", "%", "%", "KiB/member", "cores", "cores", "µs")
		}
		any = true
	}
	for _, r := range results {
		if r.Deliveries > 0 && r.Joins == 0 {
			continue
		}
		head()
		row(r.Shape, r.people(), short(r.Joins), short(r.JoinCPU), short(r.JoinRatio),
			short(r.PerJoin[gateways]), short(r.PerJoin[roomSrvs]), short(r.PerJoin[redises]), short(r.P50), short(r.P99),
			short(100*r.ServerCores), short(100*r.Cores[gateways]), short(100*r.Cores[roomSrvs]), short(100*r.Cores[redises]),
			short(r.GatewayMemory/1024), short(r.Cores[driver]), short(r.OtherLoad), short(r.RawWrite))
	}
	return t.Flush()
}

func writeGoals(w io.Writer, results []Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t) // Flush tells
	for _, r := range results {
		verdict := "met"
		if len(r.Missed) > 0 {
			verdict = "NOT met: " + strings.Join(r.Missed, ", ")
		} else if len(r.Goal) == 0 {
			verdict = "all delivered, once"
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\n", r.Shape, strings.Join(r.Goal, ", "), verdict)
		if r.FirstClose != "" {
			_, _ = fmt.Fprintf(t, "\t\ta connection ended: %s\n", r.FirstClose)
		}
	}
	return t.Flush()
}

// WriteBenchmarks writes the results as `go test -bench` does, which benchstat compares.
func WriteBenchmarks(w io.Writer, results []Result) error {
	for _, r := range results {
		line := []string{"BenchmarkShape/" + r.Shape, "1"}
		add := func(v float64, unit string) {
			if v > 0 {
				line = append(line, fmt.Sprintf("%.5g %s", v, unit))
			}
		}
		add(r.Server, "server-µs/delivery")
		add(r.Ratio, "server/raw-write")
		add(r.PerDelivery[gateways], "gateways-µs/delivery")
		add(r.RedisMessage, "redis-µs/msg")
		add(r.Deliveries, "deliveries/s")
		add(r.Joins, "joins/s")
		add(r.JoinCPU, "server-µs/join")
		add(100*r.ServerCores, "server-%core")
		add(r.GatewayMemory, "gateway-B/member")
		add(r.P50, "p50-ms")
		add(r.P90, "p90-ms")
		add(r.P99, "p99-ms")
		add(r.P999, "p99.9-ms")
		add(r.RawWrite, "raw-µs/write")
		if _, err := fmt.Fprintln(w, strings.Join(line, "\t")); err != nil {
			return err
		}
	}
	return nil
}
