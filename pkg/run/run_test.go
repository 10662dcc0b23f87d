package run

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain is also the child process that the signal test kills.
func TestMain(m *testing.M) {
	if os.Getenv("ANTEROOM_SIGNAL_CHILD") != "" {
		signalChild()
		return
	}
	goleak.VerifyTestMain(m)
}

func signalChild() {
	ctx, stop := Signals(context.Background())
	defer stop()
	fmt.Println("ready")
	<-ctx.Done()
	fmt.Println("stopping")
	if os.Getenv("ANTEROOM_SIGNAL_CHILD") == "stuck" {
		select {}
	}
}

// trace records what components do, in order.
type trace struct {
	mu     sync.Mutex
	events []string
}

func (t *trace) add(event string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = append(t.events, event)
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestComponentsStopInReverseOrderOneAtATime(t *testing.T) {
	var seen trace
	g := Group{Logger: quiet()}
	for _, name := range []string{"store", "hub", "http"} {
		g.Add(name, func(ctx context.Context) error {
			<-ctx.Done()
			seen.add(name + " stopping")
			time.Sleep(5 * time.Millisecond) // if another component is stopped too early, it shows up in between
			seen.add(name + " stopped")
			return nil
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Run(ctx); err != nil {
		t.Fatal(err)
	}
	want := []string{"http stopping", "http stopped", "hub stopping", "hub stopped", "store stopping", "store stopped"}
	if !slices.Equal(seen.events, want) {
		t.Errorf("got %q", seen.events)
	}
}

func TestAComponentThatEndsStopsTheOthersAndIsNamed(t *testing.T) {
	broken := errors.New("port taken")
	for _, c := range []struct {
		err  error
		want string
	}{{broken, "http: port taken"}, {nil, "http ended"}} {
		g := Group{Logger: quiet()}
		g.Add("hub", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		g.Add("http", func(context.Context) error { return c.err })
		err := g.Run(t.Context())
		if err == nil || err.Error() != c.want || (c.err != nil && !errors.Is(err, broken)) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

func TestTheFirstSignalStopsAndTheSecondLeavesAtOnce(t *testing.T) {
	for _, c := range []struct {
		mode    string
		signals []syscall.Signal
		exit    int
	}{
		{"obedient", []syscall.Signal{syscall.SIGTERM}, 0},
		{"stuck", []syscall.Signal{syscall.SIGTERM, syscall.SIGTERM}, 143},
		{"stuck", []syscall.Signal{syscall.SIGINT, syscall.SIGINT}, 130},
	} {
		t.Run(c.mode+" "+c.signals[0].String(), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			child := exec.CommandContext(ctx, os.Args[0])
			child.Env = append(os.Environ(), "ANTEROOM_SIGNAL_CHILD="+c.mode)
			out, err := child.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			for _, s := range c.signals {
				lines.Scan() // ready, then stopping
				if err := child.Process.Signal(s); err != nil {
					t.Fatal(err)
				}
			}
			_, _ = io.Copy(io.Discard, out)
			_ = child.Wait()
			if got := child.ProcessState.ExitCode(); got != c.exit {
				t.Errorf("exit status %d, want %d (%v)", got, c.exit, child.ProcessState)
			}
		})
	}
}

func TestStoppingSignalsTwiceIsHarmless(t *testing.T) {
	ctx, stop := Signals(t.Context())
	stop()
	stop()
	<-ctx.Done()
}

// serveAdmin runs an admin listener on a free port.
func serveAdmin(t *testing.T, checks ...Check) *Admin {
	t.Helper()
	a, err := ListenAdmin("127.0.0.1:0", NewRegistry(), checks...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return a
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestTheAdminListenerServesMetricsHealthAndProfiles(t *testing.T) {
	a := serveAdmin(t)
	for path, want := range map[string]string{
		"/metrics": "go_goroutines", "/healthz": "ok", "/readyz": "", "/debug/pprof/": "goroutine",
		"/debug/pprof/goroutine?debug=1": "goroutine profile",
	} {
		if status, body := get(t, "http://"+a.Addr()+path); status != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %.80q", path, status, body)
		}
	}
	if status, _ := get(t, "http://"+a.Addr()+"/other"); status != 404 {
		t.Errorf("/other: %d", status)
	}
}

func TestMetricsTellTheirTypesAndOfTheProcess(t *testing.T) {
	a := serveAdmin(t)
	_, body := get(t, "http://"+a.Addr()+"/metrics")
	for _, want := range []string{
		"# TYPE go_goroutines gauge\n", "\ngo_memstats_heap_inuse_bytes ", "\ngo_info{", "\ngo_build_info{",
		"# TYPE process_cpu_seconds_total counter\n", "\nprocess_resident_memory_bytes ", "\nprocess_open_fds ",
	} {
		if !strings.Contains(body, want) && (runtime.GOOS == "linux" || !strings.Contains(want, "process_")) {
			t.Errorf("no %q", want)
		}
	}
}

func TestReadyzNamesTheCheckThatFails(t *testing.T) {
	ok := Check{"redis", func(context.Context) error { return nil }}
	down := Check{"room service", func(context.Context) error { return errors.New("no address is serving") }}
	a := serveAdmin(t, ok, down)
	status, body := get(t, "http://"+a.Addr()+"/readyz")
	if status != 503 || body != "redis: ok\nroom service: no address is serving\n" {
		t.Errorf("%d %q", status, body)
	}
	err := HealthCheck(t.Context(), Ready, a.Addr())
	if err == nil || !strings.HasPrefix(err.Error(), "not ready: ") || !strings.Contains(err.Error(), "no address is serving") {
		t.Errorf("ready: %v", err)
	}
	if err := HealthCheck(t.Context(), Live, a.Addr()); err != nil {
		t.Errorf("live, with a check that fails: %v", err)
	}
}

func TestReadyzAnswersThoughACheckHangs(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	a := serveAdmin(t, Check{"stuck", func(context.Context) error { <-release; return nil }})
	if status, body := get(t, "http://"+a.Addr()+"/readyz"); status != 503 || body != "stuck: no answer in time\n" {
		t.Errorf("%d %q", status, body)
	}
}

func TestHealthCheckAsksLoopbackForAnAddressOfEveryInterface(t *testing.T) {
	a := serveAdmin(t)
	_, port, _ := strings.Cut(a.Addr(), ":")
	for _, address := range []string{a.Addr(), ":" + port, "0.0.0.0:" + port, "[::]:" + port} {
		if err := HealthCheck(t.Context(), Live, address); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, address := range []string{"nowhere", "127.0.0.1:1"} {
		if HealthCheck(t.Context(), Live, address) == nil {
			t.Errorf("%s passed", address)
		}
	}
}

func TestPostDrainAndNoOtherMethodStopsTheProcess(t *testing.T) {
	a, err := ListenAdmin("127.0.0.1:0", NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	drained := 0
	a.HandleDrain(func() { drained++ })
	for _, c := range []struct {
		method          string
		status, drained int
	}{
		{http.MethodGet, 405, 0}, {http.MethodPut, 405, 0}, {http.MethodDelete, 405, 0},
		{http.MethodPost, 202, 1}, {http.MethodPost, 202, 2},
	} {
		w := httptest.NewRecorder()
		a.mux.ServeHTTP(w, httptest.NewRequest(c.method, "/drain", nil))
		if w.Code != c.status || drained != c.drained {
			t.Errorf("%s /drain: %d, drained %d times", c.method, w.Code, drained)
		}
	}
	a.listener.Close()
}

func TestATakenAdminAddressStopsTheStart(t *testing.T) {
	a := serveAdmin(t)
	if _, err := ListenAdmin(a.Addr(), NewRegistry()); err == nil {
		t.Error("no error")
	}
}

func TestLogsAreJSONAwayFromATerminal(t *testing.T) {
	before := slog.Default()
	defer slog.SetDefault(before)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	logger, err := NewLogger(write, "warn")
	if err != nil {
		t.Fatal(err)
	}
	logger.Info("below the level")
	logger.Warn("kept", "room", "lobby")
	write.Close()
	out, _ := io.ReadAll(read)
	var line map[string]any
	if bytes.Count(out, []byte("\n")) != 1 || json.Unmarshal(out, &line) != nil || line["room"] != "lobby" {
		t.Errorf("got %q", out)
	}
	if _, err := NewLogger(os.Stderr, "loud"); err == nil || !strings.Contains(err.Error(), "debug, info, warn, error") {
		t.Errorf("level loud: %v", err)
	}
}
