package toxic_test

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/anteroom-chat/anteroom/services/e2e/toxic"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo returns a proxy in front of a server that sends back what it gets.
func echo(t *testing.T) *toxic.Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	p, err := toxic.New(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func dial(t *testing.T, p *toxic.Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func say(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

// hear reads the expected text, and returns an error if something else comes.
func hear(c net.Conn, text string) error {
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != text {
		return errors.New("got " + string(got))
	}
	return nil
}

func wantHeard(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if err := hear(c, text); err != nil {
		t.Errorf("%q did not come back: %v", text, err)
	}
}

// wantSilence checks that a connection is open, and that nothing comes.
func wantSilence(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d bytes and %v, want silence", n, err)
	}
}

func wantCut(t *testing.T, c net.Conn) {
	t.Helper()
	if err := hear(c, "x"); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection was not cut: %v", err)
	}
}

func TestWhatIsCutCanConnectAgain(t *testing.T) {
	p := echo(t)
	c := dial(t, p)
	say(t, c, "one")
	wantHeard(t, c, "one")
	p.Cut()
	wantCut(t, c)
	again := dial(t, p)
	say(t, again, "two")
	wantHeard(t, again, "two")
}

func TestWhoRefusesLetsNobodyIn(t *testing.T) {
	p := echo(t)
	before := dial(t, p)
	say(t, before, "one")
	wantHeard(t, before, "one")
	p.Refuse()
	wantCut(t, before)
	if c, err := net.Dial("tcp", p.Addr()); err == nil { // cut before or after the handshake
		t.Cleanup(func() { c.Close() })
		wantCut(t, c)
	}
	p.Heal()
	after := dial(t, p)
	say(t, after, "two")
	wantHeard(t, after, "two")
}

func TestHalfOpenConnectionsStandAndPassNothingUntilHealed(t *testing.T) {
	for name, ways := range map[string][]toxic.Direction{
		"up": {toxic.Up}, "down": {toxic.Down}, "both": {toxic.Up, toxic.Down},
	} {
		t.Run(name, func(t *testing.T) {
			p := echo(t)
			old := dial(t, p)
			say(t, old, "one")
			wantHeard(t, old, "one")

			p.HalfOpen(false, ways...)
			say(t, old, "two")
			wantSilence(t, old)
			fresh := dial(t, p)
			say(t, fresh, "three")
			wantHeard(t, fresh, "three")

			p.HalfOpen(true, ways...)
			fresh = dial(t, p)
			say(t, fresh, "four")
			wantSilence(t, fresh)
			p.Heal()
			wantHeard(t, old, "two")
			wantHeard(t, fresh, "four")
		})
	}
}

func TestSlowConnectionsLoseNothing(t *testing.T) {
	p := echo(t)
	c := dial(t, p)
	p.Set(toxic.Quality{Latency: 20 * time.Millisecond, Bandwidth: 1 << 20})
	began := time.Now()
	for range 10 {
		say(t, c, "something")
	}
	for range 10 {
		wantHeard(t, c, "something")
	}
	if d := time.Since(began); d < 40*time.Millisecond {
		t.Errorf("there and back within %v", d)
	}
}
