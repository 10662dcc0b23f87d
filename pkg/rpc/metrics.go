package rpc

import (
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/anteroom-chat/anteroom/pkg/vec"
)

// callMetrics count the calls of one side.
type callMetrics struct {
	calls    *vec.Counters   // by how they ended: OK, an error code of the contract, or a gRPC code
	duration *vec.Histograms // retries included
}

// newMetrics makes anteroom_rpc_<side>_calls_total and
// anteroom_rpc_<side>_duration_seconds; a second server or connection on the same
// registry counts into the same ones.
func newMetrics(side string, registry *metrics.Set) *callMetrics {
	if registry == nil {
		registry = metrics.NewSet()
	}
	bounds := []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}
	return &callMetrics{
		calls:    vec.NewCounters(registry, "anteroom_rpc_"+side+"_calls_total", "code", "method"),
		duration: vec.NewHistograms(registry, bounds, "anteroom_rpc_"+side+"_duration_seconds", "method"),
	}
}

func (m *callMetrics) observe(method, code string, start time.Time) {
	m.calls.With(code, method).Inc()
	m.duration.With(method).UpdateDuration(start)
}
