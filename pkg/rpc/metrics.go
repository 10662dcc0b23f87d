package rpc

import (
	"time"

	"github.com/VictoriaMetrics/metrics"
	"google.golang.org/grpc"

	"github.com/anteroom-chat/anteroom/pkg/vec"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// callMetrics count the calls of one side.
type callMetrics struct {
	calls    *vec.Counters   // by result: OK, an error code of the contract, or a gRPC code
	duration *vec.Histograms // retries included
}

// newMetrics makes anteroom_rpc_<side>_calls_total and anteroom_rpc_<side>_duration_seconds.
// Several servers or connections on one registry share these metrics.
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

// begin makes each method's counters for OK, the normal result, and INTERNAL, which should
// never occur, so that they exist before the first call.
func (m *callMetrics) begin(desc *grpc.ServiceDesc) {
	for _, method := range desc.Methods {
		name := "/" + desc.ServiceName + "/" + method.MethodName
		m.calls.With(codeLabel(nil, nil), name)
		m.calls.With(string(wire.Internal), name)
	}
}

func (m *callMetrics) observe(method, code string, start time.Time) {
	m.calls.With(code, method).Inc()
	m.duration.With(method).UpdateDuration(start)
}
