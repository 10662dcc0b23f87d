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
	probeTimeout     = 4 * time.Second // of HealthCheck: above checkTimeout
)

// NewRegistry makes a metrics registry that has the process's own metrics.
func NewRegistry() *metrics.Set {
	metrics.ExposeMetadata(true) // the types, for the whole process
	registry := metrics.NewSet()
	registry.RegisterMetricsWriter(metrics.WriteProcessMetrics)
	registry.RegisterMetricsWriter(metrics.WriteFDMetrics)
	registry.RegisterMetricsWriter(writeBuildInfo)
	return registry
}

// writeBuildInfo tells what was built; the Go version is in go_info.
func writeBuildInfo(w io.Writer) {
	if info, ok := debug.ReadBuildInfo(); ok {
		metrics.WriteGaugeUint64(w, fmt.Sprintf("go_build_info{checksum=%q,path=%q,version=%q}",
			info.Main.Sum, info.Main.Path, info.Main.Version), 1)
	}
}

// Check is one condition of readiness.
type Check struct {
	Name  string
	Ready func(ctx context.Context) error // nil when ready; has 2 s
}

// Admin serves what operators need, apart from the users' port: /metrics,
// /healthz (the process runs), /readyz (every check passes) and /debug/pprof/.
type Admin struct {
	listener net.Listener
	server   *http.Server
	mux      *http.ServeMux
}

// ListenAdmin takes the address, so that a taken one stops the start; Run serves.
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

// CheckAddress finds at once what no listener can take: where a process first waits
// for others, a wrong address would show late.
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

// Addr is the address that was taken; it tells the port when port 0 was asked for.
func (a *Admin) Addr() string { return a.listener.Addr().String() }

// HandleDrain lets POST /drain stop the process in order, as SIGTERM does; before Run.
// drain starts that, once or again, and does not wait for the end. It is answered with
// 202 when drain has returned.
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
		_ = a.server.Close() // a profile under way is cut
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

// serveReady runs the checks at once and tells each one's result on a line.
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
			select { // the check before it may have taken all of the time
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

// Probe is what a health check asks for.
type Probe string

// The probes. What restarts processes asks whether they are live, what routes or waits
// asks whether they are ready: a restart mends no outage of what a process depends on.
const (
	Live  Probe = "live"  // /healthz: the process runs
	Ready Probe = "ready" // /readyz: what it depends on answers, and it does not stop
)

func (p Probe) path() string {
	if p == Live {
		return "/healthz"
	}
	return "/readyz"
}

// HealthCheck is what --healthcheck does, for container health checks in images
// without a shell: it asks the process at its own admin address and answers nil or why
// the process is not what was asked for. An address without a host (":9101", or one
// that means every interface) is asked on loopback.
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
	transport := &http.Transport{DisableKeepAlives: true} // and no proxy of the environment
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
