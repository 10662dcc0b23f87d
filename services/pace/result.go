package pace

import (
	"fmt"
	"time"
)

// Result is what a run measured. Figures that were not measured are 0 and left out of JSON.
type Result struct {
	Shape   string  `json:"shape"`
	Rooms   int     `json:"rooms"`
	Size    int     `json:"roomSize"`
	Rate    float64 `json:"messagesDue,omitempty"` // a second
	Seconds float64 `json:"windowSeconds"`

	RawWrite float64 `json:"rawWriteMicros,omitempty"` // CPU of one, the mean of Raws
	raws     []float64

	Messages   float64 `json:"messagesPerSecond,omitempty"`
	Deliveries float64 `json:"deliveriesPerSecond,omitempty"`
	Joins      float64 `json:"joinsPerSecond,omitempty"`
	Bytes      float64 `json:"bytesPerSecond,omitempty"` // received by the driver

	// CPU time in µs. For each delivery: of each kind of process, of all servers together,
	// and the latter as a multiple of the raw write. For each message: of Redis. For each
	// join: of each kind of process, and of all servers together.
	PerDelivery   map[string]float64 `json:"cpuPerDeliveryMicros,omitempty"`
	Server        float64            `json:"serverCpuPerDeliveryMicros,omitempty"`
	Ratio         float64            `json:"serverCpuPerDeliveryToRawWrite,omitempty"`
	GatewayRatio  float64            `json:"gatewayCpuPerDeliveryToRawWrite,omitempty"`
	RedisMessage  float64            `json:"redisCpuPerMessageMicros,omitempty"`
	PerJoin       map[string]float64 `json:"cpuPerJoinMicros,omitempty"`
	JoinCPU       float64            `json:"serverCpuPerJoinMicros,omitempty"`
	JoinRatio     float64            `json:"serverCpuPerJoinToRawWrite,omitempty"`
	Cores         map[string]float64 `json:"cores,omitempty"`       // in use, by kind of process
	ServerCores   float64            `json:"serverCores,omitempty"` // all but the driver
	OtherLoad     float64            `json:"otherLoadCores"`        // in use by other processes
	GatewayMemory float64            `json:"gatewayBytesPerMember,omitempty"`

	// In milliseconds, from when a message was due or a join began.
	P50     float64 `json:"p50Millis,omitempty"`
	P90     float64 `json:"p90Millis,omitempty"`
	P99     float64 `json:"p99Millis,omitempty"`
	P999    float64 `json:"p999Millis,omitempty"`
	Most    float64 `json:"maxMillis,omitempty"`
	Samples int64   `json:"latencySamples,omitempty"`
	LateP99 float64 `json:"sentLateP99Millis,omitempty"` // the driver's own delay, which the latencies above include

	Sent       int64  `json:"sent"`    // messages, over the whole run
	Refused    int64  `json:"refused"` // how many of them were answered with ERROR
	Missing    int64  `json:"missing"` // deliveries that did not come
	Double     int64  `json:"double"`  // deliveries that came twice
	Closed     int64  `json:"closed"`  // connections that the deployment closed
	FirstClose string `json:"closeReason,omitempty"`

	Goal   []string `json:"goal,omitempty"`   // what should be reached
	Missed []string `json:"missed,omitempty"` // which goals were missed, and what went wrong
}

func newResult(cfg Config) Result {
	return Result{Shape: cfg.Shape.Name, Rooms: cfg.Shape.Rooms, Size: cfg.Shape.Size, Rate: cfg.Shape.Rate}
}

func (r *Result) addRaw(cost time.Duration) {
	r.raws = append(r.raws, micros(cost))
	r.RawWrite = 0
	for _, v := range r.raws {
		r.RawWrite += v / float64(len(r.raws))
	}
}

// addWindow computes the figures of the window. joins is how many joins were made in it.
func (r *Result) addWindow(w *window, joins int64) {
	r.Seconds = w.seconds()
	r.Messages = float64(w.sent) / r.Seconds
	r.Deliveries = float64(w.delivered) / r.Seconds
	r.Joins = float64(joins) / r.Seconds
	r.Bytes = float64(w.bytes) / r.Seconds
	if len(w.to.cpu) == 0 {
		return
	}
	per := func(n int64) map[string]float64 {
		costs := map[string]float64{}
		for kind := range w.to.cpu {
			costs[kind] = micros(w.cpu(kind)) / float64(n)
		}
		return costs
	}
	r.Cores = map[string]float64{}
	for kind := range w.to.cpu {
		r.Cores[kind] = w.cpu(kind).Seconds() / r.Seconds
	}
	r.ServerCores = w.servers().Seconds() / r.Seconds
	r.OtherLoad = w.strangers()
	if w.delivered > 0 {
		r.PerDelivery = per(w.delivered)
		r.Server = micros(w.servers()) / float64(w.delivered)
	}
	if w.sent > 0 {
		r.RedisMessage = micros(w.cpu(redises)) / float64(w.sent)
	}
	if joins > 0 {
		r.PerJoin = per(joins)
		r.JoinCPU = micros(w.servers()) / float64(joins)
	}
}

func (r *Result) addLatency(h *histogram) {
	r.P50, r.P90 = millis(h.quantile(0.5)), millis(h.quantile(0.9))
	r.P99, r.P999 = millis(h.quantile(0.99)), millis(h.quantile(0.999))
	r.Most, r.Samples = millis(h.most), h.total
}

func (r *Result) addMemory(before, after usage) {
	r.GatewayMemory = float64(after.rss[gateways]-before.rss[gateways]) / float64(r.Rooms*r.Size)
}

// judge compares the result with the goal, once everything is measured.
func (r *Result) judge(g Goal) {
	if r.RawWrite > 0 {
		r.Ratio = r.Server / r.RawWrite
		r.GatewayRatio = r.PerDelivery[gateways] / r.RawWrite
		r.JoinRatio = r.JoinCPU / r.RawWrite
	}
	measured := len(r.Cores) > 0
	r.most("server CPU a delivery", "× raw", r.Ratio, g.Ratio, measured)
	r.least("deliveries", "/s", r.Deliveries, g.Deliveries)
	r.most("CPU of all", "% of a core", 100*r.ServerCores, 100*g.CPU, measured)
	r.most("gateway memory a member", " KiB", r.GatewayMemory/1024, float64(g.Memory)/1024, measured)
	r.least("joins", "/s", r.Joins, g.Joins)
	r.most("server CPU a join", " µs", r.JoinCPU, micros(g.JoinCPU), measured)
	r.most("p99", " ms", r.P99, millis(g.P99), true)
	for _, wrong := range []struct {
		what string
		n    int64
	}{{"deliveries missing", r.Missing}, {"deliveries double", r.Double}, {"messages refused", r.Refused}, {"connections closed", r.Closed}} {
		if wrong.n > 0 {
			r.Missed = append(r.Missed, fmt.Sprintf("%d %s", wrong.n, wrong.what))
		}
	}
}

func (r *Result) most(what, unit string, got, goal float64, measured bool) {
	if goal > 0 && measured {
		r.Goal = append(r.Goal, fmt.Sprintf("%s ≤ %s%s", what, short(goal), unit))
		if got > goal {
			r.Missed = append(r.Missed, fmt.Sprintf("%s %s%s", what, short(got), unit))
		}
	}
}

func (r *Result) least(what, unit string, got, goal float64) {
	if goal > 0 {
		r.Goal = append(r.Goal, fmt.Sprintf("%s ≥ %s%s", what, short(goal), unit))
		if got < goal {
			r.Missed = append(r.Missed, fmt.Sprintf("%s %s%s", what, short(got), unit))
		}
	}
}

// Failed reports whether something went wrong, such as missing deliveries. A missed goal for
// speed is not a failure.
func (r *Result) Failed() bool { return r.Missing+r.Double+r.Refused+r.Closed > 0 }

// short formats v with three significant digits, or more for large numbers.
func short(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
