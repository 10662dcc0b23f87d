package client_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// drain reads events that the test does not look at.
func drain(m *client.Member) {
	for range m.Events() {
	}
}

func dropAll(int, wire.ClientFrame) verdict { return verdict{drop: true} }

func TestSendAnswersWithItsSeq(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		srv.say(`1`)
		m := enter(t, srv, client.MemberOptions{})
		go drain(m)
		for want := int64(2); want < 5; want++ {
			if seq, err := m.Send(t.Context(), "hi"); err != nil || seq != want {
				t.Errorf("seq %d, %v, want %d", seq, err, want)
			}
		}
	})
}

// A message that was not echoed is sent again with the same id, whether it was never
// accepted, or accepted and only the echo was lost.
func TestWhatWasNotEchoedIsSentAgain(t *testing.T) {
	for name, v := range map[string]verdict{"never accepted": {drop: true}, "accepted, echo lost": {mute: true}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, srv *fake) {
				srv.onMessage = func(n int, _ wire.ClientFrame) verdict {
					if n == 1 {
						return v
					}
					return verdict{}
				}
				m := enter(t, srv, client.MemberOptions{})
				go drain(m)
				go func() { time.Sleep(time.Second); srv.cutAll() }()
				if seq, err := m.Send(t.Context(), "hi"); err != nil || seq != 1 {
					t.Errorf("seq %d, %v", seq, err)
				}
				if len(srv.log) != 1 {
					t.Errorf("the log has %d entries", len(srv.log))
				}
				_, messages := srv.seen()
				if v.mute && len(messages) != 1 {
					t.Errorf("sent again, though the replay had the echo")
				}
				if v.drop && (len(messages) != 2 || messages[0].ID != messages[1].ID || messages[0].ID == "") {
					t.Errorf("the service got %v", messages)
				}
				time.Sleep(2 * time.Second)
			})
		})
	}
}

// If a gateway loses the reply to an append, it refuses the message. The message may be in
// the log all the same, and its echo may have arrived already.
func TestAnErrorBehindTheEchoIsNoNews(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		m := enter(t, srv, client.MemberOptions{})
		id, err := m.Post("hi")
		if err != nil {
			t.Fatal(err)
		}
		want(t, m, "JOINED, MESSAGE 1")
		srv.each(func(s *socket) { s.put(wire.ErrorFrame(wire.Errorf(wire.Unavailable, "nothing is known"), id)) })
		srv.say(`2`)
		want(t, m, "MESSAGE 2")
	})
}

func TestUnavailableOnlyDelays(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		srv.onMessage = func(n int, _ wire.ClientFrame) verdict {
			if n < 4 {
				return verdict{refuse: wire.Errorf(wire.Unavailable, "later")}
			}
			return verdict{}
		}
		m := enter(t, srv, client.MemberOptions{})
		go drain(m)
		began := time.Now()
		if seq, err := m.Send(t.Context(), "hi"); err != nil || seq != 1 {
			t.Errorf("seq %d, %v", seq, err)
		}
		if got := time.Since(began); got != 3*time.Second {
			t.Errorf("took %v", got)
		}
	})
}

// Only one message at a time checks whether an outage is over, however many are waiting,
// because refused messages count for MESSAGE_RATE as well.
func TestAnOutageIsOverForAllMessagesTogether(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		began, probes := time.Now(), 0
		srv.onMessage = func(int, wire.ClientFrame) verdict {
			if at := time.Since(began); at < 2500*time.Millisecond {
				if at > 0 {
					probes++
				}
				return verdict{refuse: wire.Errorf(wire.Unavailable, "later")}
			}
			return verdict{}
		}
		m := enter(t, srv, client.MemberOptions{})
		go drain(m)
		var sends sync.WaitGroup
		for range 30 {
			sends.Go(func() {
				if _, err := m.Send(t.Context(), "hi"); err != nil {
					t.Error(err)
				}
			})
		}
		sends.Wait()
		if got := time.Since(began); got != 3*time.Second {
			t.Errorf("took %v", got)
		}
		if probes != 2 {
			t.Errorf("the service got %d messages more while it refused them", probes)
		}
	})
}

// A service accepts many messages from a Member in bounded time, whatever its limits are; the
// defaults of docs/protocol.md are among them. A run of refusals must not last long, or the
// connection would be closed with 4429. 3 s without a refusal end the run.
func TestRateLimitedSlowsDown(t *testing.T) {
	for _, limit := range []struct {
		rate, burst float64
		messages    int
		outage      time.Duration // time in which messages are refused for another reason
		within      time.Duration
	}{
		{20, 40, 300, 0, 25 * time.Second}, {1, 1, 40, 0, 100 * time.Second}, {5, 1, 100, 0, 60 * time.Second},
		{20, 40, 300, 14 * time.Second, 40 * time.Second}, {1, 1, 20, 14 * time.Second, 100 * time.Second},
		{0.5, 1, 10, 14 * time.Second, 100 * time.Second},
	} {
		bubble(t, func(t *testing.T, srv *fake) {
			tokens, filled, refusals, began := limit.burst, time.Now(), 0, time.Now()
			var first, last time.Time
			var longest time.Duration
			srv.onMessage = func(int, wire.ClientFrame) verdict {
				tokens = min(limit.burst, tokens+limit.rate*time.Since(filled).Seconds())
				filled = time.Now()
				if tokens >= 1 {
					tokens--
					if time.Since(began) < limit.outage {
						return verdict{refuse: wire.Errorf(wire.Unavailable, "later")}
					}
					return verdict{}
				}
				if time.Since(last) > 3*time.Second {
					first = time.Now()
				}
				last = time.Now()
				longest = max(longest, last.Sub(first))
				refusals++
				return verdict{refuse: wire.Errorf(wire.RateLimited, "too many")}
			}
			m := enter(t, srv, client.MemberOptions{})
			go drain(m)
			var all sync.WaitGroup
			for range limit.messages {
				all.Go(func() {
					if _, err := m.Send(t.Context(), "hi"); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			took := time.Since(began)
			t.Logf("%v/s: %d messages in %v, %d refused, for %v at most", limit.rate, limit.messages, took, refusals, longest)
			if took > limit.within || len(srv.log) != limit.messages {
				t.Errorf("%v/s: %d delivered in %v", limit.rate, len(srv.log), took)
			}
			if longest > wire.FloodPatience*8/10 || refusals > limit.messages+40 {
				t.Errorf("%v/s: %d refusals, for %v at most", limit.rate, refusals, longest)
			}
		})
	}
}

func TestARefusedBodyIsAnErrorOfItsSend(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		srv.onMessage = func(int, wire.ClientFrame) verdict {
			return verdict{refuse: wire.Errorf(wire.BadRequest, "no")}
		}
		m := enter(t, srv, client.MemberOptions{})
		want(t, m, "JOINED")
		_, err := m.Send(t.Context(), "hi")
		wantCode(t, err, wire.BadRequest)
		id, err := m.Post("hi")
		if err != nil {
			t.Fatal(err)
		}
		if e := want(t, m, "ERROR BAD_REQUEST")[0]; e.ID != id || e.Cause == nil {
			t.Errorf("got %+v, want it about %s", e, id)
		}
		_, err = m.Send(t.Context(), strings.Repeat("x", wire.DefaultFrameBytes))
		wantCode(t, err, wire.BadRequest)
		srv.set(func() {
			srv.onMessage = func(int, wire.ClientFrame) verdict { return verdict{refuse: wire.Errorf(wire.Internal, "")} }
		})
		_, err = m.Send(t.Context(), "hi")
		wantCode(t, err, wire.Internal)
		if !errors.Is(err, client.ErrUnconfirmed) {
			t.Errorf("INTERNAL says nothing about the log, but: %v", err)
		}
		if _, err = m.Post("hi"); err != nil {
			t.Fatal(err)
		}
		if e := want(t, m, "ERROR INTERNAL")[0]; !errors.Is(e.Cause, client.ErrUnconfirmed) {
			t.Errorf("that of a Post: %v", e.Cause)
		}
		if _, err = m.Send(t.Context(), make(chan int)); err == nil {
			t.Error("a channel was encoded")
		}
	})
}

func TestPostEchoesAmongTheEvents(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		m := enter(t, srv, client.MemberOptions{Buffer: 1})
		want(t, m, "JOINED")
		srv.say(`1`, `2`, `3`, `4`)
		posted := map[string]bool{}
		for e := range m.Events() { // a bot that answers inside the loop while its buffer is full
			if e.ID == "" {
				id, err := m.Post("re")
				if err != nil {
					t.Fatal(err)
				}
				posted[id] = true
			} else if delete(posted, e.ID); e.Seq == 8 {
				break
			}
		}
		if len(posted) != 0 {
			t.Errorf("%d were not echoed", len(posted))
		}
	})
}

func TestPostRefusesWhenTooMuchWaits(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		srv.onMessage = dropAll
		m := enter(t, srv, client.MemberOptions{Outbox: 3})
		for range 3 {
			if _, err := m.Post(1); err != nil {
				t.Error(err)
			}
		}
		if _, err := m.Post(1); !errors.Is(err, client.ErrOutboxFull) {
			t.Errorf("got %v", err)
		}
	})
}

func TestASendThatGivesUpSaysWhetherItMayHaveArrived(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		srv.onMessage = dropAll
		m := enter(t, srv, client.MemberOptions{})
		want(t, m, "JOINED")
		_, err := m.Send(within(t, time.Second), 1)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, client.ErrUnconfirmed) {
			t.Errorf("written: %v", err)
		}
		srv.set(func() { srv.onJoin = func(int, attempt) *wire.Error { return wire.Errorf(wire.Unavailable, "") } })
		srv.cutAll()
		want(t, m, "DISCONNECTED")
		_, err = m.Send(within(t, time.Second), 1)
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, client.ErrUnconfirmed) {
			t.Errorf("not written: %v", err)
		}
		go func() { time.Sleep(time.Second); m.Abort() }()
		if _, err = m.Send(t.Context(), 1); !errors.Is(err, client.ErrClosed) || errors.Is(err, client.ErrUnconfirmed) {
			t.Errorf("the member ended: %v", err)
		}
	})
}

// The service remembers an id for 2 minutes. Repeated later, the message would be delivered
// twice.
func TestNothingIsSentAgainAfterItsIDIsForgotten(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		var written time.Time // when the last message came first
		ids := map[string]bool{}
		srv.onMessage = func(_ int, f wire.ClientFrame) verdict {
			if !ids[f.ID] {
				ids[f.ID], written = true, time.Now()
			}
			return verdict{refuse: wire.Errorf(wire.Unavailable, "")}
		}
		m := enter(t, srv, client.MemberOptions{})
		want(t, m, "JOINED")
		id, err := m.Post(1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Send(t.Context(), 1); !errors.Is(err, client.ErrUnconfirmed) {
			t.Errorf("got %v", err)
		}
		srv.set(func() {
			// If the first was refused before, the second was not written until that was given up.
			if took := time.Since(written); took >= wire.MessageIDAge || took < wire.MessageIDAge-15*time.Second {
				t.Errorf("after %v", took)
			}
		})
		if e := want(t, m, "ERROR UNAVAILABLE")[0]; e.ID != id || !errors.Is(e.Cause, client.ErrUnconfirmed) {
			t.Errorf("got %+v", e)
		}
		_, before := srv.seen()
		time.Sleep(time.Minute)
		synctest.Wait()
		if _, after := srv.seen(); len(after) != len(before) {
			t.Errorf("%d more were sent", len(after)-len(before))
		}
	})
}
