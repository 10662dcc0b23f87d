package gateway

import (
	"github.com/VictoriaMetrics/metrics"

	"github.com/anteroom-chat/anteroom/pkg/vec"
)

// gatewayMetrics are the gateway's own; the terms are PROTOCOL's.
type gatewayMetrics struct {
	sessions   *metrics.Gauge
	parked     *metrics.Gauge // of sessions: without a goroutine
	refusals   *vec.Counters  // handshakes, by reason
	joins      *vec.Counters  // by result: ok, or the refusal's code
	closes     *vec.Counters  // by name of the close code; BROKEN without one
	messages   *vec.Counters  // by result: ok, duplicate, or the refusal's code
	deliveries *metrics.Counter
	catchUps   *metrics.Counter // reads of a room's log to fill a hole
	drops      *vec.Counters    // by reason; what is dropped is read from the log later
	renewals   *vec.Counters    // by result: renewed, lost, failed
}

func newMetrics(registry *metrics.Set) *gatewayMetrics {
	if registry == nil {
		registry = metrics.NewSet()
	}
	return &gatewayMetrics{
		sessions:   registry.GetOrCreateGauge("anteroom_gateway_sockets", nil),
		parked:     registry.GetOrCreateGauge("anteroom_gateway_parked_sockets", nil),
		refusals:   vec.NewCounters(registry, "anteroom_gateway_refusals_total", "reason"),
		joins:      vec.NewCounters(registry, "anteroom_gateway_joins_total", "result"),
		closes:     vec.NewCounters(registry, "anteroom_gateway_closes_total", "code"),
		messages:   vec.NewCounters(registry, "anteroom_gateway_messages_total", "result"),
		deliveries: registry.GetOrCreateCounter("anteroom_gateway_deliveries_total"),
		catchUps:   registry.GetOrCreateCounter("anteroom_gateway_catch_ups_total"),
		drops:      vec.NewCounters(registry, "anteroom_gateway_drops_total", "reason"),
		renewals:   vec.NewCounters(registry, "anteroom_gateway_renewals_total", "result"),
	}
}
