package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime/debug"
	"strings"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// Bounds of the admin listener.
const (
	checkTimeout     = 2 * time.Second // of one readiness check
	adminStopTimeout = 2 * time.Second
	probeTimeout     = 4 * time.Second // of HealthCheck; longer than checkTimeout
)

// NewRegistry returns a metrics registry that includes the metrics of the process itself.
func NewRegistry() *metrics.Set {
	metrics.ExposeMetadata(true) // writes the types; applies to the whole process
	registry := metrics.NewSet()
	registry.RegisterMetricsWriter(metrics.WriteProcessMetrics)
	registry.RegisterMetricsWriter(metrics.WriteFDMetrics)
	registry.RegisterMetricsWriter(writeBuildInfo)
	return registry
}

// writeBuildInfo writes what was built. The Go version is in go_info.
func writeBuildInfo(w io.Writer) {
	if info, ok := debug.ReadBuildInfo(); ok {
		metrics.WriteGaugeUint64(w, fmt.Sprintf("go_build_info{checksum=%q,path=%q,version=%q}",
			info.Main.Sum, info.Main.Path, info.Main.Version), 1)
	}
}

// Check is one condition of readiness.
type Check struct {
	Name  string
	Ready func(ctx context.Context) error // nil when ready; ctx ends after 2 s
}

// Admin serves what operators need, apart from the users' port: /metrics,
// /healthz (the process runs), /readyz (every check passes) and /debug/pprof/.
type Admin struct {
	listener net.Listener
	server   *http.Server
	mux      *http.ServeMux
}

// ListenAdmin listens on the address, so that a start fails if the address is taken. Run
// serves.
func ListenAdmin(address string, registry *metrics.Set, checks ...Check) (*Admin, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	mux := adminHandler(registry, checks)
	return &Admin{listener: listener, mux: mux, server: &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
	}}, nil
}

// CheckAddress reports an address that no listener can use. A process that first waits for
// others would notice a wrong address late.
func CheckAddress(flag, address string) error {
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	return nil
}

// Addr returns the address that it listens on, with the actual port if port 0 was requested.
func (a *Admin) Addr() string { return a.listener.Addr().String() }

// HandleDrain makes POST /drain stop the process in order, as SIGTERM does. It must be called
// before Run. drain begins the stop and does not wait for its end; it may be called again.
// The response, 202, is sent when drain has returned.
func (a *Admin) HandleDrain(drain func()) {
	a.mux.HandleFunc("POST /drain", func(w http.ResponseWriter, _ *http.Request) {
		drain()
		w.WriteHeader(http.StatusAccepted)
	})
}

// Run serves until ctx ends.
func (a *Admin) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- a.server.Serve(a.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("admin listener: %w", err)
	case <-ctx.Done():
	}
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), adminStopTimeout)
	defer cancel()
	if a.server.Shutdown(bound) != nil {
		_ = a.server.Close() // cuts off a profile in progress
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin listener: %w", err)
	}
	return nil
}

func adminHandler(registry *metrics.Set, checks []Check) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		registry.WritePrometheus(w)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { serveReady(w, r, checks) })
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// serveReady runs all checks at the same time and writes one line for each result.
func serveReady(w http.ResponseWriter, r *http.Request, checks []Check) {
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	results := make([]chan error, len(checks))
	for i, c := range checks {
		results[i] = make(chan error, 1)
		go func() { results[i] <- c.Ready(ctx) }()
	}
	status := http.StatusOK
	var text strings.Builder
	for i, c := range checks {
		err := errors.New("no answer in time")
		select {
		case err = <-results[i]:
		case <-ctx.Done():
			select { // an earlier check may have taken all of the time
			case err = <-results[i]:
			default: // it ignores its context
			}
		}
		if err != nil {
			status = http.StatusServiceUnavailable
			fmt.Fprintf(&text, "%s: %v\n", c.Name, err)
			continue
		}
		fmt.Fprintf(&text, "%s: ok\n", c.Name)
	}
	w.WriteHeader(status)
	w.Write([]byte(text.String()))
}

// Probe is the question that a health check asks.
type Probe string

// The probes. A supervisor that restarts processes should ask whether they are live: a
// restart does not help when something that a process depends on is down. Load balancers, and
// whoever waits for a process, should ask whether it is ready.
const (
	Live  Probe = "live"  // /healthz: the process runs
	Ready Probe = "ready" // /readyz: its dependencies answer, and it is not stopping
)

func (p Probe) path() string {
	if p == Live {
		return "/healthz"
	}
	return "/readyz"
}

// HealthCheck implements --healthcheck, for container health checks in images without a
// shell. It asks the process at its own admin address and returns nil, or an error that says
// why the process is not live or not ready. If the address has no host (":9101") or one that
// means every interface, loopback is used.
func HealthCheck(ctx context.Context, probe Probe, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	url := "http://" + net.JoinHostPort(host, port) + probe.path()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	transport := &http.Transport{DisableKeepAlives: true} // and no proxy from the environment
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not %s: %s", probe, strings.TrimSpace(string(body)))
	}
	return nil
}
