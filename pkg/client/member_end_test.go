package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

func TestWhoStopsReadingStopsTheSocket(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		m := enter(t, srv, client.MemberOptions{Buffer: 4})
		synctest.Wait()
		body := json.RawMessage(`"` + strings.Repeat("x", 15<<10) + `"`)
		const all = 100
		var sent int
		said := make(chan struct{})
		go func() {
			defer close(said)
			for sent = range all {
				srv.set(func() { srv.publish("", body) })
			}
		}()
		synctest.Wait()
		// The buffered events, one frame being delivered, and what the connection holds each
		// way.
		if limit := 4 + 1 + 2*pipeBytes/(15<<10) + 2; sent > limit {
			t.Errorf("%d frames were taken, want at most %d", sent, limit)
		}
		want(t, m, "JOINED")
		for seq := range all {
			want(t, m, fmt.Sprintf("MESSAGE %d", seq+1))
		}
		<-said
	})
}

func TestEachWayToEnd(t *testing.T) {
	for name, end := range map[string]func(m *client.Member) error{
		"leave": func(m *client.Member) error { return m.Leave(context.Background()) },
		"close": (*client.Member).Close,
		"abort": func(m *client.Member) error { m.Abort(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, srv *fake) {
				m := enter(t, srv, client.MemberOptions{Buffer: 1})
				srv.say(`1`, `2`, `3`, `4`) // nobody reads these
				synctest.Wait()
				if err := end(m); err != nil {
					t.Error(err)
				}
				<-m.Done()
				if m.Err() != nil {
					t.Errorf("Err is %v", m.Err())
				}
				if _, err := m.Post(1); !errors.Is(err, client.ErrClosed) {
					t.Errorf("post afterwards: %v", err)
				}
				for range m.Events() { // ends
				}
				m.Abort()
			})
		})
	}
}

func TestEventsBeforeTheEndHaveNoHole(t *testing.T) {
	for range 20 { // what is in flight at that moment varies
		bubble(t, testTheEnd)
	}
}

func testTheEnd(t *testing.T, srv *fake) {

	m := enter(t, srv, client.MemberOptions{Buffer: 4000})
	want(t, m, "JOINED")
	ended := make(chan struct{})
	var talkers sync.WaitGroup
	for range 2 {
		talkers.Go(func() {
			for {
				select {
				case <-ended:
					return
				default:
					srv.say(`1`)
				}
			}
		})
	}
	last := int64(0)
	next := func(e client.Event) {
		if e.Type != wire.TypeMessage || e.Seq != last+1 {
			t.Errorf("%s behind %d", line(e), last)
		}
		last = e.Seq
	}
	for last < 20 {
		e, err := m.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		next(e)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	close(ended)
	talkers.Wait()
	for e := range m.Events() {
		next(e)
	}
	if got := m.Position().Seq; got != last {
		t.Errorf("the position is %d, the last event was %d", got, last)
	}
}

func TestLeavingWhileAway(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		m := enter(t, srv, client.MemberOptions{})
		want(t, m, "JOINED")
		srv.cutAll()
		want(t, m, "DISCONNECTED")
		if err := m.Leave(t.Context()); !errors.Is(err, client.ErrAway) {
			t.Errorf("got %v", err)
		}
	})
}
