package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
)

// vitals are figures that a gateway reports about itself.
type vitals struct {
	resident, heap float64 // bytes
	goroutines     float64
	cpu            float64 // seconds since its start
	at             time.Time
}

// collected makes the gateway collect its garbage, and then returns its vitals.
func (v *venue) collected(t *testing.T, g *cluster.Process) vitals {
	t.Helper()
	profile := v.admin(t, g, "/debug/pprof/heap?gc=1")
	_, _ = io.Copy(io.Discard, profile)
	_ = profile.Close()
	return v.vitals(t, g)
}

func (v *venue) admin(t *testing.T, g *cluster.Process, path string) io.ReadCloser {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t, soon), http.MethodGet, g.AdminURL()+path, nil)
	must(t, err)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	return resp.Body
}

func (v *venue) vitals(t *testing.T, g *cluster.Process) (now vitals) {
	t.Helper()
	now.at = time.Now()
	body := v.admin(t, g, "/metrics")
	defer body.Close()
	for lines := bufio.NewScanner(body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		n, _ := strconv.ParseFloat(value, 64)
		switch name {
		case "process_resident_memory_bytes":
			now.resident = n
		case "go_memstats_heap_inuse_bytes":
			now.heap = n
		case "go_goroutines":
			now.goroutines = n
		case "process_cpu_seconds_total":
			now.cpu = n
		}
	}
	return now
}

// load returns how many cores the gateway has used on average since before.
func (v vitals) load(before vitals) float64 {
	return (v.cpu - before.cpu) / v.at.Sub(before.at).Seconds()
}

func (v vitals) String() string {
	return fmt.Sprintf("%.0f/%.0f MiB", v.resident/(1<<20), v.heap/(1<<20))
}
