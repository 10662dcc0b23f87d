package gateway

import (
	"github.com/VictoriaMetrics/metrics"

	"github.com/anteroom-chat/anteroom/pkg/vec"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// The values of labels, besides the names of error codes and close codes.
const (
	refusalOrigin, refusalRate, refusalFull, refusalStopping = "origin", "rate", "full", "stopping"

	joinOK, joinGone = "ok", "GONE" // GONE: the socket ended first

	messageOK, messageDuplicate, messageNoSeat = "ok", "duplicate", "no_seat"

	closeBroken, closeOther = "BROKEN", "OTHER" // without a code; with a code of the client's own

	dropInboxFull = "inbox_full"

	renewalRenewed, renewalLost, renewalFailed = "renewed", "lost", "failed"
)

// gatewayMetrics are the gateway's own, in the terms of docs/protocol.md.
type gatewayMetrics struct {
	sockets    *metrics.Gauge
	parked     *metrics.Gauge // of sockets: without a goroutine
	refusals   *vec.Counters  // handshakes, by reason
	joins      *vec.Counters  // by result: ok, GONE, or the refusal's code
	closes     *vec.Counters  // by name of the close code; BROKEN without one, OTHER for a client's own
	messages   *vec.Counters  // by result: ok, duplicate, no_seat, or the refusal's code
	deliveries *metrics.Counter
	catchUps   *metrics.Counter // reads of a room's log to fill a hole
	drops      *vec.Counters    // by reason; what is dropped is read from the log later
	renewals   *vec.Counters    // by result: renewed, lost, failed
}

func newMetrics(registry *metrics.Set) *gatewayMetrics {
	if registry == nil {
		registry = metrics.NewSet()
	}
	m := &gatewayMetrics{
		sockets:    registry.GetOrCreateGauge("anteroom_gateway_sockets", nil),
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
	m.begin()
	return m
}

// begin creates the series of all label values at 0. If a counter's first increment created
// it, Prometheus would see no growth.
func (m *gatewayMetrics) begin() {
	vec.Begin(m.refusals, refusalOrigin, refusalRate, refusalFull, refusalStopping)
	vec.Begin(m.drops, dropInboxFull)
	vec.Begin(m.renewals, renewalRenewed, renewalLost, renewalFailed)
	vec.Begin(m.joins, joinOK, joinGone)
	for _, code := range wire.Codes() {
		if code.Translate().Close != 0 { // an error without a close code refuses no join
			vec.Begin(m.joins, code)
		}
	}
	vec.Begin(m.messages, messageOK, messageDuplicate, messageNoSeat)
	vec.Begin(m.messages, wire.RoomNotFound, wire.Unavailable, wire.Internal) // all codes that a publisher's errors have
	vec.Begin(m.closes, closeBroken, closeOther)
	for _, code := range wire.CloseCodes() {
		vec.Begin(m.closes, closeLabel(code))
	}
}
