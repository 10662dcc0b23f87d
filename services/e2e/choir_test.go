package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
)

// The honest rooms, which nothing may disturb. In each, two of the members talk.
const (
	choirRooms   = 10
	choirMembers = 4
	choirPause   = 125 * time.Millisecond
	choirEnv     = "ANTEROOM_E2E_CHOIR" // the gateway's URL, in the process that is the choir
)

// TestMain runs the tests or, if choirEnv is set, the choir.
func TestMain(m *testing.M) {
	gateway := os.Getenv(choirEnv)
	if gateway == "" {
		cluster.Main(m)
	}
	if err := sing(context.Background(), gateway, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// choir is the honest rooms of a gateway, and how long their messages take. They run in a
// process of their own, so that the measurement does not include what an attack costs the
// attacker.
type choir struct {
	mu        sync.Mutex // guards what follows
	latencies []time.Duration
}

// newChoir starts the rooms. They go on until the test ends; if they end before, the test
// fails.
func newChoir(t *testing.T, gateway string) *choir {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), choirEnv+"="+gateway)
	out, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = t.Output()
	must(t, cmd.Start())
	c, heard, ended := &choir{}, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		c.listen(out, heard)
	}()
	t.Cleanup(func() {
		select {
		case <-ended:
			t.Error("the honest rooms ended before the test did")
		default:
		}
		_ = cmd.Process.Kill()
		<-ended
		_ = cmd.Wait()
	})
	select {
	case <-heard:
	case <-ended:
		t.Fatal("the honest rooms could not begin")
	}
	return c
}

// listen reads lines that say how long each message took, in ns.
func (c *choir) listen(out io.Reader, heard chan<- struct{}) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		took, err := strconv.ParseInt(lines.Text(), 10, 64)
		if err != nil {
			return
		}
		if heard != nil {
			close(heard)
			heard = nil
		}
		c.mu.Lock()
		c.latencies = append(c.latencies, time.Duration(took))
		c.mu.Unlock()
	}
}

// since returns how long each message took since the last call.
func (c *choir) since() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.latencies
	c.latencies = nil
	return l
}

func p99(latencies []time.Duration) time.Duration {
	if len(latencies) == 0 {
		return 0
	}
	slices.Sort(latencies)
	return latencies[len(latencies)*99/100]
}

// sing lets the honest rooms talk, and writes how long each message took. It ends when
// the first of their members is disturbed.
func sing(ctx context.Context, gateway string, out io.Writer) error {
	c, err := client.New(gateway)
	if err != nil {
		return err
	}
	failed := make(chan error, 2*choirRooms*choirMembers)
	told := make(chan time.Duration, 1024)
	for range choirRooms {
		room, err := c.CreateRoom(ctx, client.RoomSpec{Capacity: choirMembers})
		if err != nil {
			return err
		}
		for i := range choirMembers {
			s, err := c.Join(ctx, client.JoinOptions{RoomID: room.RoomID})
			if err != nil {
				return err
			}
			go func() { failed <- listenTo(ctx, s, told) }()
			if i < 2 {
				go func() { failed <- talkTo(ctx, s) }()
			}
		}
	}
	for {
		select {
		case err := <-failed:
			return err
		case took := <-told:
			if _, err := fmt.Fprintln(out, took.Nanoseconds()); err != nil {
				return err
			}
		}
	}
}

func talkTo(ctx context.Context, s *client.Session) error {
	tick := time.NewTicker(choirPause)
	defer tick.Stop()
	for {
		<-tick.C
		if err := s.Send(ctx, "", time.Now().UnixNano()); err != nil {
			return fmt.Errorf("an honest member cannot talk: %w", err)
		}
	}
}

func listenTo(ctx context.Context, s *client.Session, told chan<- time.Duration) error {
	for {
		f, err := s.Receive(ctx)
		if err != nil {
			return fmt.Errorf("an honest member is gone: %w", err)
		}
		var sent int64
		switch {
		case f.Type == wire.TypeError:
			return fmt.Errorf("an honest member got %+v", f)
		case f.Type == wire.TypeMessage && json.Unmarshal(f.Body, &sent) == nil:
			told <- time.Since(time.Unix(0, sent))
		}
	}
}
