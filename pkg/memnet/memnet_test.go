package memnet_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/memnet"
)

// pair returns both ends of a connection from "a" to "b".
func pair(t *testing.T, n *memnet.Network) (dialed, accepted net.Conn) {
	t.Helper()
	l, err := n.Listen("b")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	type result struct {
		c   net.Conn
		err error
	}
	done := make(chan result)
	go func() {
		c, err := n.Dial(context.Background(), "a", "b")
		done <- result{c, err}
	}()
	if accepted, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { r.c.Close(); accepted.Close() })
	return r.c, accepted
}

func read(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

func TestBytesArriveInOrderAndThenTheEnd(t *testing.T) {
	a, b := pair(t, memnet.New())
	_, _ = io.WriteString(a, "one ")
	_, _ = io.WriteString(a, "two")
	_ = a.Close()
	if got, err := io.ReadAll(b); string(got) != "one two" || err != nil {
		t.Fatalf("read %q, %v", got, err)
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, memnet.ErrReset) {
		t.Fatalf("a write to who is gone answered %v", err)
	}
}

func TestCloseWithSomethingUnreadResets(t *testing.T) {
	a, b := pair(t, memnet.New())
	_, _ = io.WriteString(a, "unread")
	_, _ = io.WriteString(b, "lost")
	_ = b.Close()
	if _, err := io.ReadAll(a); !errors.Is(err, memnet.ErrReset) {
		t.Fatalf("read answered %v, want a reset", err)
	}
}

func TestWriterWaitsAtTheBufferUntilItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, memnet.New())
		_ = a.SetWriteDeadline(time.Now().Add(time.Minute))
		began := time.Now()
		n, err := a.Write(make([]byte, memnet.Buffer+1))
		if n != memnet.Buffer || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Minute {
			t.Fatalf("wrote %d, %v after %v", n, err, time.Since(began))
		}
		_ = b.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := io.Copy(io.Discard, b); n != memnet.Buffer || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read %d, %v", n, err)
		}
	})
}

func TestStalledLinkHoldsBytesUpAndLosesNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		a, b := pair(t, n)
		n.Link("a", "b").StallWays(false, true)
		_, _ = io.WriteString(a, "forth")
		read(t, b, "forth")
		_, _ = io.WriteString(b, "back")
		time.AfterFunc(time.Hour, func() { n.Link("a", "b").Stall(false) })
		began := time.Now()
		read(t, a, "back")
		if time.Since(began) != time.Hour {
			t.Fatalf("arrived after %v", time.Since(began))
		}
	})
}

func TestCutResetsWhatThereIsAndRefuseWhatComes(t *testing.T) {
	n := memnet.New()
	a, b := pair(t, n)
	link := n.Link("a", "b")
	_, _ = io.WriteString(a, "lost")
	link.Cut()
	for _, c := range []net.Conn{a, b} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, memnet.ErrReset) {
			t.Fatalf("read answered %v", err)
		}
	}
	_, _ = a.Close(), b.Close()
	if link.Open() != 0 {
		t.Fatalf("%d connections are left", link.Open())
	}
	l, _ := n.Listen("b")
	defer l.Close()
	link.Refuse(true)
	if _, err := n.Dial(context.Background(), "a", "b"); !errors.Is(err, memnet.ErrRefused) {
		t.Fatalf("dial answered %v", err)
	}
}

func TestDialToNobodyIsRefusedAndToOneWhoIsBusyWaits(t *testing.T) {
	n := memnet.New()
	if _, err := n.Dial(context.Background(), "a", "b"); !errors.Is(err, memnet.ErrRefused) {
		t.Fatalf("dial answered %v", err)
	}
	l, _ := n.Listen("b")
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := n.Dial(ctx, "a", "b"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("dial answered %v", err)
	}
}

// This is how go-redis checks a connection before it uses it again.
func TestALookTellsWhetherAConnectionCanBeUsedAgain(t *testing.T) {
	n := memnet.New()
	a, b := pair(t, n)
	look := func(c net.Conn) error {
		raw, err := c.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		return raw.Read(func(uintptr) bool { t.Error("there is a descriptor"); return true })
	}
	if err := look(a); err != nil {
		t.Errorf("while nothing has come: %v", err)
	}
	_, _ = io.WriteString(b, "x")
	if look(a) == nil {
		t.Error("what was not read is not seen")
	}
	read(t, a, "x")
	if err := look(a); err != nil {
		t.Errorf("once it was read: %v", err)
	}
	n.Link("a", "b").Cut()
	if err := look(a); !errors.Is(err, memnet.ErrReset) {
		t.Errorf("when cut: %v", err)
	}
	_ = b.Close()
	if look(b) == nil {
		t.Error("when closed: nothing")
	}
}
