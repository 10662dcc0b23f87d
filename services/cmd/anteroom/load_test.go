//go:build !devonly

package main

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/alecthomas/kong"
)

// startDev runs `anteroom dev` on a free port until the test ends.
func startDev(t *testing.T) string {
	t.Helper()
	d := new(dev)
	parser, err := kong.New(d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse([]string{"--admin-listen=127.0.0.1:0"}); err != nil {
		t.Fatal(err)
	}
	cfg, closeStore, err := d.prepare(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.serve(ctx, cfg, listener) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		closeStore()
	})
	return "http://" + listener.Addr().String()
}

// status runs the command and returns its exit status.
func status(t *testing.T, args ...string) int {
	t.Helper()
	var cli struct {
		Load loadCmd `cmd:""`
	}
	parser, err := kong.New(&cli, kong.Vars{"shapes": ""})
	if err != nil {
		t.Fatal(err)
	}
	k, err := parser.Parse(append([]string{"load"}, args...))
	if err != nil {
		t.Fatal(err)
	}
	k.BindTo(context.Background(), (*context.Context)(nil))
	status := 0
	parser.Exit = func(code int) { status = code }
	parser.Stderr = os.Stdout
	parser.FatalIfErrorf(k.Run())
	return status
}

func TestTheExitStatusOfLoadTells(t *testing.T) {
	system := startDev(t)
	target, err := url.Parse(system)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	// It answers every GET but /chat with ROOM_NOT_FOUND, although the rooms have members.
	forgetful := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && r.URL.Path != "/chat" {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"code":"ROOM_NOT_FOUND"}`))
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(forgetful.Close)

	small := []string{"--check", "--users=12", "--rooms=2", "--capacity=3", "--duration=" + (2 * time.Second).String(), "--target"}
	if got := status(t, append(small, system, "--json")...); got != 0 {
		t.Errorf("a right system: %d", got)
	}
	if got := status(t, append(small, forgetful.URL)...); got != statusViolations {
		t.Errorf("a system that forgets its rooms: %d", got)
	}
	if got := status(t, append(small, "http://127.0.0.1:1")...); got != statusUntested {
		t.Errorf("a system out of reach: %d", got)
	}
	if got := status(t, "--target", system); got != statusUntested {
		t.Errorf("without --check: %d", got)
	}
}
