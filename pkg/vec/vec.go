// Package vec tells metrics of one name apart by the values of their labels. The metrics
// library knows a metric by its whole name, labels included, which would have to be put
// together for every event.
package vec

import (
	"strings"
	"sync"

	"github.com/VictoriaMetrics/metrics"
)

// Vec is metrics of one name. Each is there once the values of its labels have come, or
// from the start by Begin, and stays: they must be few.
type Vec[M any] struct {
	name   string
	labels []string
	metric func(name string) M // of the set; made if it is not there

	mu   sync.RWMutex
	made map[[2]string]M // by values
}

// Counters count events.
type Counters = Vec[*metrics.Counter]

// Histograms count values up to bounds.
type Histograms = Vec[*metrics.PrometheusHistogram]

// NewCounters makes counters with one or two labels, or answers with those of the set:
// its counters of the same name are the same.
func NewCounters(set *metrics.Set, name string, labels ...string) *Counters {
	return newVec(set.GetOrCreateCounter, name, labels)
}

// NewHistograms is NewCounters for histograms.
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

// With answers with the metric whose labels have these values, in the labels' order.
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

// Begin makes the metrics of one label that are known before their first event: what asks
// by how much a counter grew would miss an event that the counter came with.
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
