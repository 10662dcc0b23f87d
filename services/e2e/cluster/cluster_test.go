package cluster

import (
	"context"
	"net"
	"os/exec"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

func TestAPortIsKeptForTheProcessThatComesToListen(t *testing.T) {
	held, err := holdPort()
	if err != nil {
		t.Fatal(err)
	}
	defer held.release()
	for range 2 { // a start and a restart
		listener, err := net.Listen("tcp", held.addr)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", held.addr)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		listener.Close()
	}
}

func TestAProcessIsPausedKilledAndStartedAgain(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip("no sleep here")
	}
	p := &Process{Name: "sleep", argv: []string{sleep, "60"}, log: t.TempDir() + "/log", ready: func(context.Context) error { return nil }}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for range 2 {
		if err := p.Start(ctx); err != nil || !p.Running() {
			t.Fatalf("running %v: %v", p.Running(), err)
		}
		if p.Start(ctx) == nil {
			t.Fatal("started twice")
		}
		if err := p.Pause(); err != nil {
			t.Fatal(err)
		}
		if err := p.Kill(); err != nil || p.Running() {
			t.Fatalf("running %v: %v", p.Running(), err)
		}
		if err := p.Kill(); err != nil {
			t.Fatalf("killed twice: %v", err)
		}
	}
	if err := p.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(ctx); err == nil {
		t.Fatal("a process that a signal ended has status 0")
	}
}
