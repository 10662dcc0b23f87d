package redistest

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// startTimeout bounds the start of a server, which takes some 20 ms on an idle machine.
const startTimeout = 20 * time.Second

// Redis is a redis-server that listens on a Unix socket. It keeps nothing on disk unless its
// arguments say so.
type Redis struct {
	tb     testing.TB
	socket string
	args   []string
	cmd    *exec.Cmd // nil while the server is stopped
	output bytes.Buffer
}

// Server starts a redis-server with the given additional arguments. It runs until the test
// ends. If redis-server is not installed, the test fails: skipping it would hide that nothing
// was checked.
func Server(tb testing.TB, args ...string) *Redis {
	tb.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		tb.Fatal("redis-server is not installed, and this test runs on nothing else: " +
			"`make deps` installs it on Debian and Ubuntu; elsewhere `brew install redis`, `dnf install redis`, …")
	}
	// Not t.TempDir, whose path can be longer than a socket's may be (108 bytes).
	dir, err := os.MkdirTemp("", "redis")
	if err != nil {
		tb.Fatal(err)
	}
	r := &Redis{tb: tb, socket: filepath.Join(dir, "s")}
	r.args = append([]string{
		"--port", "0", "--unixsocket", r.socket, "--dir", tb.TempDir(),
		"--save", "", "--appendonly", "no", "--loglevel", "warning",
	}, args...)
	tb.Cleanup(func() {
		r.Stop()
		_ = os.RemoveAll(dir)
	})
	r.Start()
	return r
}

// URL returns the server's address for redisdb.Connect.
func (r *Redis) URL() string { return "unix://" + r.socket }

// Socket is the path of the server's Unix socket.
func (r *Redis) Socket() string { return r.socket }

// Start starts the server again after Stop, and waits until it answers.
func (r *Redis) Start() {
	r.tb.Helper()
	r.output.Reset()
	r.cmd = exec.Command("redis-server", r.args...)
	r.cmd.Stdout, r.cmd.Stderr = &r.output, &r.output
	if err := r.cmd.Start(); err != nil {
		r.cmd = nil
		r.tb.Fatalf("start redis-server: %v", err)
	}
	rdb := Client(r.tb, r.URL())
	defer func() { _ = rdb.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for rdb.Ping(ctx).Err() != nil {
		select {
		case <-ctx.Done():
			r.Stop()
			r.tb.Fatalf("redis-server does not answer after %v:\n%s", startTimeout, r.output.String())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Stop kills the server at once, as a crash would, and waits for its end.
func (r *Redis) Stop() {
	if r.cmd == nil {
		return
	}
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
	r.cmd = nil
}

// Pause makes the server silent without closing its connections; Resume wakes it.
func (r *Redis) Pause() { r.signal(syscall.SIGSTOP) }

// Resume ends Pause.
func (r *Redis) Resume() { r.signal(syscall.SIGCONT) }

func (r *Redis) signal(s syscall.Signal) {
	r.tb.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		r.tb.Fatalf("signal redis-server: %v", err)
	}
}
