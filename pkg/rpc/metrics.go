package rpc

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts the calls of one side.
type metrics struct {
	calls    *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

// newMetrics registers anteroom_rpc_<side>_calls_total and
// anteroom_rpc_<side>_duration_seconds; a second server or connection on the same
// registry counts into the same ones.
func newMetrics(side string, registry prometheus.Registerer) *metrics {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "anteroom", Subsystem: "rpc_" + side, Name: "calls_total",
			Help: "Unary calls by method and by how they ended (OK, an error code of the contract, or a gRPC code).",
		}, []string{"method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "anteroom", Subsystem: "rpc_" + side, Name: "duration_seconds",
			Help:    "How long unary calls took, retries included.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"method"}),
	}
	if registry != nil {
		m.calls = register(registry, m.calls)
		m.duration = register(registry, m.duration)
	}
	return m
}

func register[C prometheus.Collector](registry prometheus.Registerer, c C) C {
	err := registry.Register(c)
	if there, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		return there.ExistingCollector.(C)
	}
	if err != nil {
		panic("rpc: " + err.Error()) // two collectors of one name and different labels: a defect
	}
	return c
}

func (m *metrics) observe(method, code string, start time.Time) {
	m.calls.WithLabelValues(method, code).Inc()
	m.duration.WithLabelValues(method).Observe(time.Since(start).Seconds())
}
