package gateway

import "github.com/prometheus/client_golang/prometheus"

// metrics are the gateway's own; the terms are PROTOCOL's.
type metrics struct {
	sessions   prometheus.Gauge
	refusals   *prometheus.CounterVec // handshakes, by reason
	joins      *prometheus.CounterVec // by result: ok, or the refusal's code
	closes     *prometheus.CounterVec // by name of the close code; BROKEN without one
	messages   *prometheus.CounterVec // by result: ok, duplicate, or the refusal's code
	deliveries prometheus.Counter
	catchUps   prometheus.Counter
	drops      *prometheus.CounterVec // by reason; what is dropped is read from the log later
	renewals   *prometheus.CounterVec // by result: renewed, lost, failed
}

func newMetrics(registry prometheus.Registerer) *metrics {
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "anteroom", Subsystem: "gateway", Name: name, Help: help}, []string{label})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "anteroom", Subsystem: "gateway", Name: name, Help: help})
	}
	m := &metrics{
		sessions: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "anteroom", Subsystem: "gateway", Name: "sockets", Help: "Open WebSockets.",
		}),
		refusals:   vec("refusals_total", "WebSockets refused before the upgrade, by reason.", "reason"),
		joins:      vec("joins_total", "Joins asked for, by result.", "result"),
		closes:     vec("closes_total", "WebSockets ended, by close code.", "code"),
		messages:   vec("messages_total", "MESSAGE frames of clients, by result.", "result"),
		deliveries: counter("deliveries_total", "Log entries sent to members."),
		catchUps:   counter("catch_ups_total", "Reads of a room's log to fill a hole."),
		drops:      vec("drops_total", "Events dropped, to be read from the log, by reason.", "reason"),
		renewals:   vec("renewals_total", "Leases, by result of their renewal.", "result"),
	}
	if registry != nil {
		registry.MustRegister(m.sessions, m.refusals, m.joins, m.closes, m.messages, m.deliveries, m.catchUps, m.drops, m.renewals)
	}
	return m
}
