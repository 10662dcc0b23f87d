// Package vec provides metrics of one name with different label values. The metrics library
// identifies a metric by its whole name, labels included, and that name would have to be
// built for every event.
package vec

import (
	"strings"
	"sync"

	"github.com/VictoriaMetrics/metrics"
)

// Vec is a set of metrics of one name. A metric appears when its label values are first used,
// or from the start by Begin, and then stays, so there must be few.
type Vec[M any] struct {
	name   string
	labels []string
	metric func(name string) M // gets the set's metric of this name, or makes it

	mu   sync.RWMutex
	made map[[2]string]M // by label values
}

// Counters count events.
type Counters = Vec[*metrics.Counter]

// Histograms count values in buckets.
type Histograms = Vec[*metrics.PrometheusHistogram]

// NewCounters returns counters with one or two labels. If the set already has counters of the
// same name, they are shared.
func NewCounters(set *metrics.Set, name string, labels ...string) *Counters {
	return newVec(set.GetOrCreateCounter, name, labels)
}

// NewHistograms is like NewCounters, for histograms whose buckets end at bounds.
func NewHistograms(set *metrics.Set, bounds []float64, name string, labels ...string) *Histograms {
	return newVec(func(name string) *metrics.PrometheusHistogram {
		return set.GetOrCreatePrometheusHistogramExt(name, bounds)
	}, name, labels)
}

func newVec[M any](metric func(string) M, name string, labels []string) *Vec[M] {
	if len(labels) != 1 && len(labels) != 2 {
		panic("vec: " + name + " has neither one label nor two") // a defect
	}
	return &Vec[M]{name: name, labels: labels, metric: metric, made: make(map[[2]string]M)}
}

// With returns the metric whose labels have these values, in the labels' order.
func (v *Vec[M]) With(values ...string) M {
	if len(values) != len(v.labels) {
		panic("vec: " + v.name + " has other labels") // a defect
	}
	var key [2]string
	copy(key[:], values)
	v.mu.RLock()
	m, ok := v.made[key]
	v.mu.RUnlock()
	if ok {
		return m
	}
	m = v.metric(v.nameOf(values))
	v.mu.Lock()
	v.made[key] = m
	v.mu.Unlock()
	return m
}

// Begin makes metrics with one label before their first event. A query for how much a counter
// grew would miss an event with which the counter first appears.
func Begin[M any, V ~string](v *Vec[M], values ...V) {
	for _, value := range values {
		v.With(string(value))
	}
}

var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func (v *Vec[M]) nameOf(values []string) string {
	var s strings.Builder
	s.WriteString(v.name)
	separator := `{`
	for i, label := range v.labels {
		s.WriteString(separator + label + `="` + escape.Replace(strings.ToValidUTF8(values[i], "\uFFFD")) + `"`)
		separator = `,`
	}
	s.WriteString(`}`)
	return s.String()
}
