package pace

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// WriteTable writes the results for people: a table of messages, one of joins and idle
// members, and whether the goals were met.
func WriteTable(w io.Writer, results []Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(cells ...string) { _, _ = fmt.Fprintln(t, strings.Join(cells, "\t")+"\t") } // Flush returns the error
	row("", "", "", "", "CPU a delivery, µs", "", "", "", "a message", "latency, ms", "", "", "", "gateways", "cores in use", "", "raw write")
	row("shape", "members", "msgs/s", "deliv./s", "servers", "gateways", "room", "redis", "redis", "p50", "p90", "p99", "p99.9", "KiB/member", "driver", "others", "µs")
	for _, r := range results {
		if r.Deliveries == 0 || r.Joins > 0 {
			continue
		}
		row(r.Shape, r.people(), short(r.Messages), short(r.Deliveries), r.times(r.Server),
			r.times(r.PerDelivery[gateways]), r.times(r.PerDelivery[roomSrvs]), r.times(r.PerDelivery[redises]), r.times(r.RedisMessage),
			short(r.P50), short(r.P90), short(r.P99), short(r.P999), short(r.GatewayMemory/1024),
			short(r.Cores[driver]), short(r.OtherLoad), short(r.RawWrite))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if err := writeSeated(w, results); err != nil {
		return err
	}
	if err := writeGrowth(w, results); err != nil {
		return err
	}
	return writeGoals(w, results)
}

// times formats a CPU time in µs, and as a multiple of the raw write.
func (r *Result) times(cost float64) string {
	if r.RawWrite == 0 || cost == 0 {
		return short(cost)
	}
	return fmt.Sprintf("%s %s×", short(cost), short(cost/r.RawWrite))
}

// people formats how many take part: rooms × members of each.
func (r *Result) people() string { return fmt.Sprintf("%d×%d", r.Rooms, r.Size) }

// writeSeated writes the shapes in which nobody talks.
func writeSeated(w io.Writer, results []Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(cells ...string) { _, _ = fmt.Fprintln(t, strings.Join(cells, "\t")+"\t") }
	headed := false
	head := func() {
		if !headed {
			row("")
			row("", "", "", "CPU a join, µs", "", "", "", "latency, ms", "", "% of a core", "", "", "", "gateways", "cores in use", "", "raw write")
			row("shape", "members", "joins/s", "servers", "gateways", "room", "redis", "p50", "p99", "servers", "gateways", "room", "redis", "KiB/member", "driver", "others", "µs")
		}
		headed = true
	}
	for _, r := range results {
		if r.Deliveries > 0 && r.Joins == 0 {
			continue
		}
		head()
		row(r.Shape, r.people(), short(r.Joins), r.times(r.JoinCPU),
			r.times(r.PerJoin[gateways]), r.times(r.PerJoin[roomSrvs]), r.times(r.PerJoin[redises]), short(r.P50), short(r.P99),
			short(100*r.ServerCores), short(100*r.Cores[gateways]), short(100*r.Cores[roomSrvs]), short(100*r.Cores[redises]),
			short(r.GatewayMemory/1024), short(r.Cores[driver]), short(r.OtherLoad), short(r.RawWrite))
	}
	return t.Flush()
}

// writeGrowth writes how costs grow with the number of members, from SHAPE-1k to SHAPE-10k.
// For idle, the latter is the shape idle itself.
func writeGrowth(w io.Writer, results []Result) error {
	named := map[string]*Result{}
	for i := range results {
		named[results[i].Shape] = &results[i]
	}
	named["idle-10k"] = named["idle"]
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head := "\nfrom 1,000 to 10,000 members\tservers' CPU a delivery, µs\tof a core, %\tp99, ms\tgateways' KiB/member\n"
	for _, a := range results {
		base, small := strings.CutSuffix(a.Shape, "-1k")
		b := named[base+"-10k"]
		if !small || b == nil {
			continue
		}
		grows := func(a, b float64) string {
			if a == 0 || b == 0 {
				return ""
			}
			return fmt.Sprintf("%s → %s (%s×)", short(a), short(b), short(b/a))
		}
		_, _ = fmt.Fprintf(t, "%s%s, rooms of %d and %d\t%s\t%s\t%s\t%s\n", head, base, a.Size, b.Size, grows(a.Server, b.Server),
			grows(100*a.ServerCores, 100*b.ServerCores), grows(a.P99, b.P99), grows(a.GatewayMemory/1024, b.GatewayMemory/1024))
		head = ""
	}
	return t.Flush()
}

func writeGoals(w io.Writer, results []Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t) // Flush returns the error
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

// WriteBenchmarks writes the results in the format of `go test -bench`, which benchstat reads.
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
