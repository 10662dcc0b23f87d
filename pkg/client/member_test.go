package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

func enter(t *testing.T, srv *fake, o client.MemberOptions) *client.Member {
	t.Helper()
	o.RoomID = "r"
	if o.Jitter == nil {
		o.Jitter = noJitter
	}
	m, err := srv.client(t).Enter(within(t, time.Minute), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Abort)
	return m
}

// wantEnd waits for the end of m's events.
func wantEnd(t *testing.T, m *client.Member) error {
	t.Helper()
	if e, err := m.Next(within(t, time.Minute)); err == nil {
		t.Fatalf("got %s (%v), want the end", line(e), e.Cause)
	} else if errors.Is(err, context.DeadlineExceeded) {
		t.Fatal("the member goes on")
	}
	return m.Err()
}

func TestATraceHasDoublesAndHolesThatEventsHaveNot(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		var traced []string
		m := enter(t, srv, client.MemberOptions{Trace: func(f wire.ServerFrame) {
			traced = append(traced, fmt.Sprint(f.Type, " ", f.Seq))
		}})
		srv.say(`1`)
		srv.each(func(s *socket) {
			s.entry(wire.ServerFrame{Type: wire.TypeMessage, Seq: 1, From: &wire.Member{UserID: "u2"}, Body: []byte(`1`)})
		})
		srv.each(func(s *socket) {
			s.entry(wire.ServerFrame{Type: wire.TypeMessage, Seq: 3, From: &wire.Member{UserID: "u2"}, Body: []byte(`3`)})
		})
		want(t, m, "JOINED, MESSAGE 1, GAP 2-2, MESSAGE 3")
		if got := strings.Join(traced, ", "); got != "JOINED 0, MESSAGE 1, MESSAGE 1, MESSAGE 3" {
			t.Errorf("traced %s", got)
		}
	})
}

func TestAReturnGoesOnBehindWhatWasSeen(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		m := enter(t, srv, client.MemberOptions{})
		srv.say(`1`, `2`)
		want(t, m, "JOINED, MESSAGE 1, MESSAGE 2")
		srv.cutAll()
		lost := want(t, m, "DISCONNECTED")
		wantClose(t, lost[0].Cause, client.CloseAbnormal)
		srv.say(`3`, `4`)
		want(t, m, "JOINED, MESSAGE 3, MESSAGE 4")
		srv.say(`5`)
		want(t, m, "MESSAGE 5")
		joins, _ := srv.seen()
		if a := joins[1].After; a == nil || *a != (wire.Position{Epoch: "e1", Seq: 2}) {
			t.Errorf("came back with after %v", a)
		}
		if joins[0].Identity != "identity-of-u1" || joins[1].Identity != joins[0].Identity {
			t.Errorf("identities %q and %q", joins[0].Identity, joins[1].Identity)
		}
		if got := m.Position(); got != (wire.Position{Epoch: "e1", Seq: 5}) {
			t.Errorf("position %v", got)
		}
	})
}

func TestDoublesAreDropped(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		m := enter(t, srv, client.MemberOptions{})
		srv.say(`1`, `2`, `3`)
		srv.each(func(s *socket) { // a replay that overlaps with live frames
			for _, f := range srv.log {
				s.entry(f)
			}
		})
		srv.say(`4`)
		want(t, m, "JOINED, MESSAGE 1, MESSAGE 2, MESSAGE 3, MESSAGE 4")
	})
}

func TestWhatIsGoneIsAGap(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		m := enter(t, srv, client.MemberOptions{})
		srv.say(`1`)
		want(t, m, "JOINED, MESSAGE 1")
		srv.cutAll()
		want(t, m, "DISCONNECTED")
		srv.say(`2`, `3`, `4`)
		srv.set(func() { srv.kept = 4 })
		joined := want(t, m, "JOINED, GAP 2-3, MESSAGE 4")[0]
		if joined.Recovered {
			t.Error("recovered, with a gap")
		}
		// A hole that the server does not report becomes a GAP as well.
		srv.set(func() { srv.log = append(srv.log, srv.log[0], srv.log[0]) })
		srv.say(`7`)
		want(t, m, "GAP 5-6, MESSAGE 7")
		// If a GAP overlaps with what was seen, only the rest is reported.
		srv.each(func(s *socket) { s.put(wire.GapFrame(6, 9)); s.put(wire.GapFrame(1, 3)) })
		want(t, m, "GAP 8-9")
	})
}

func TestANewRoomOfTheSameIDStartsAnew(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		m := enter(t, srv, client.MemberOptions{})
		srv.say(`1`, `2`, `3`)
		want(t, m, "JOINED, MESSAGE 1, MESSAGE 2, MESSAGE 3")
		srv.set(func() { srv.onMessage = dropAll })
		sent := make(chan error, 1)
		go func() {
			_, err := m.Send(context.Background(), "in the old room")
			sent <- err
		}()
		id, err := m.Post("in the old room, too")
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		srv.cutAll()
		want(t, m, "DISCONNECTED")
		srv.set(func() { srv.epoch, srv.log = "e2", nil })
		srv.say(`1`, `2`)
		events := want(t, m, "JOINED, ERROR UNAVAILABLE, MESSAGE 1, MESSAGE 2")
		if got := events[0].Epoch; got != "e2" {
			t.Errorf("epoch %s", got)
		}
		if e := events[1]; e.ID != id || !errors.Is(e.Cause, client.ErrUnconfirmed) {
			t.Errorf("got %+v", e)
		}
		if err := <-sent; !errors.Is(err, client.ErrUnconfirmed) {
			t.Errorf("a message that may stand in the old log: %v", err)
		}
	})
}

func TestALogThatWasSetBackIsFollowed(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		m := enter(t, srv, client.MemberOptions{})
		srv.say(`1`, `2`, `3`)
		want(t, m, "JOINED, MESSAGE 1, MESSAGE 2, MESSAGE 3")
		srv.cutAll()
		srv.set(func() { srv.log = srv.log[:1] }) // Redis lost its last second
		want(t, m, "DISCONNECTED, JOINED")
		srv.say(`"another 2"`)
		want(t, m, "MESSAGE 2")
	})
}

func TestCloseCodesSayWhetherToComeBack(t *testing.T) {
	for code, back := range map[wire.CloseCode]bool{
		1000: false, 1002: false, 1003: false, 1007: false, 1009: false, 4000: false,
		1001: true, 1011: true, 1012: true, 1013: true,
		4400: false, 4401: false, 4403: false, 4404: false, 4408: false, 4409: false, 4410: false,
		4429: false, 4440: false, 4441: false, 4442: false, 4499: false,
		4500: true, 4503: true, 4504: true, 4508: true, 4599: true, 4600: false,
	} {
		t.Run(fmt.Sprint(uint16(code)), func(t *testing.T) {
			bubble(t, func(t *testing.T, srv *fake) {
				m := enter(t, srv, client.MemberOptions{})
				want(t, m, "JOINED")
				srv.closeAll(code)
				if back {
					want(t, m, "DISCONNECTED, JOINED")
					return
				}
				wantClose(t, wantEnd(t, m), code)
				if _, err := m.Send(t.Context(), 1); !errors.As(err, new(*client.CloseError)) {
					t.Errorf("send afterwards: %v", err)
				}
			})
		})
	}
}

func TestAReturnThatIsRefusedEndsTheMember(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		m := enter(t, srv, client.MemberOptions{})
		want(t, m, "JOINED")
		srv.set(func() {
			srv.onJoin = func(int, attempt) *wire.Error { return wire.Errorf(wire.RoomNotFound, "gone") }
		})
		srv.cutAll()
		want(t, m, "DISCONNECTED")
		wantCode(t, wantEnd(t, m), wire.RoomNotFound)
	})
}

func TestDelaysDoubleUpToTwentySeconds(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		m := enter(t, srv, client.MemberOptions{})
		time.Sleep(5 * time.Second)
		srv.set(func() {
			srv.onJoin = func(n int, _ attempt) *wire.Error {
				if n < 10 {
					return wire.Errorf(wire.Unavailable, "Redis is away")
				}
				return nil
			}
		})
		lost := time.Now()
		srv.cutAll()
		want(t, m, "JOINED, DISCONNECTED, JOINED")
		joins, _ := srv.seen()
		var delays []string
		for _, j := range joins[1:] {
			delays = append(delays, j.at.Sub(lost).String())
			lost = j.at
		}
		if got := strings.Join(delays, " "); got != "500ms 1s 2s 4s 8s 16s 20s 20s 20s" {
			t.Errorf("delays %s", got)
		}
	})
}

func TestARefusedUpgradeWaitsAsLongAsItIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		times := 0
		srv.HandleFunc("GET /busy/chat", func(w http.ResponseWriter, r *http.Request) {
			if times++; times == 1 {
				problem(w, wire.Errorf(wire.RateLimited, "a thousand connections a second"))
				return
			}
			srv.chat(w, r)
		})
		began := time.Now()
		enter(t, srv, client.MemberOptions{Identity: "i", BaseURLs: []string{"http://gw1/busy"}})
		if got := time.Since(began); got != 3500*time.Millisecond {
			t.Errorf("in after %v", got)
		}
	})
}

func TestAFailedAddressIsFollowedByTheNext(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		m := enter(t, srv, client.MemberOptions{Identity: "i", BaseURLs: []string{"http://away", "http://gw1", "http://gw2"}})
		want(t, m, "JOINED")
		srv.closeAll(wire.CloseRestart)
		want(t, m, "DISCONNECTED, JOINED")
		if got := strings.Join(srv.dials, " "); got != "away:80 gw1:80 gw2:80" {
			t.Errorf("dialled %s", got)
		}
	})
}

func TestDrainingWaitsAsLongAsItIsTold(t *testing.T) {
	for name, early := range map[string]bool{"still open": false, "closed before": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, srv *fake) {
				m := enter(t, srv, client.MemberOptions{})
				want(t, m, "JOINED")
				srv.each(func(s *socket) { s.put(wire.DrainingFrame(3 * time.Second)) })
				told := time.Now()
				srv.say(`1`)
				want(t, m, "MESSAGE 1")
				if early {
					srv.closeAll(wire.CloseRestart)
				}
				cause := want(t, m, "DISCONNECTED, JOINED")[0].Cause
				if end, ok := errors.AsType[*client.CloseError](cause); !ok || end.Code != wire.CloseRestart {
					t.Errorf("cause %v", cause)
				}
				joins, _ := srv.seen()
				if got := joins[1].at.Sub(told); got != 3*time.Second {
					t.Errorf("came back after %v", got)
				}
			})
		})
	}
}

func TestEnterRetriesOnlyWhatCanHeal(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		srv.onJoin = func(int, attempt) *wire.Error { return wire.Errorf(wire.RoomFull, "8 of 8") }
		c := srv.client(t)
		_, err := c.Enter(t.Context(), client.MemberOptions{RoomID: "r"})
		wantCode(t, err, wire.RoomFull)
		srv.set(func() {
			srv.onJoin = func(int, attempt) *wire.Error { return wire.Errorf(wire.Unavailable, "later") }
		})
		_, err = c.Enter(within(t, 30*time.Second), client.MemberOptions{RoomID: "r"})
		wantCode(t, err, wire.Unavailable)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if _, err := c.Enter(t.Context(), client.MemberOptions{RoomID: "r", Permit: "r.p"}); err == nil {
			t.Error("a permit without its identity was taken")
		}
	})
}

// Its message may already be in the log, but there its id belongs to the former user.
func TestAnAnonymousMemberWhoseIdentityHasExpiredComesBackAsAnother(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		srv.onMessage = dropAll
		m := enter(t, srv, client.MemberOptions{})
		first := m.UserID()
		if _, err := m.Post("hi"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		srv.set(func() {
			lost := time.Now()
			srv.makeNone = 2
			srv.onJoin = func(_ int, a attempt) *wire.Error {
				switch {
				case a.Identity == identityOf+first:
					return wire.Errorf(wire.Unauthenticated, "the identity has expired")
				case time.Since(lost) < wire.Lease:
					return wire.Errorf(wire.RoomFull, "by the first user's seat")
				}
				return nil
			}
		})
		srv.cutAll()
		want(t, m, "JOINED, DISCONNECTED, JOINED, ERROR UNAVAILABLE")
		if got := m.UserID(); got == first || got == "" {
			t.Errorf("%q came back, as before", got)
		}
	})
	bubble(t, func(t *testing.T, srv *fake) {
		m := enter(t, srv, client.MemberOptions{})
		srv.set(func() {
			srv.onJoin = func(n int, _ attempt) *wire.Error {
				if n == 2 {
					return wire.Errorf(wire.Unauthenticated, "the identity has expired")
				}
				return wire.Errorf(wire.RoomFull, "by others")
			}
		})
		srv.cutAll()
		want(t, m, "JOINED, DISCONNECTED")
		_, err := m.Next(within(t, time.Minute))
		wantCode(t, err, wire.RoomFull)
	})
	bubble(t, func(t *testing.T, srv *fake) {
		srv.onJoin = func(int, attempt) *wire.Error { return wire.Errorf(wire.Unauthenticated, "no") }
		c := srv.client(t)
		for _, o := range []client.MemberOptions{{RoomID: "r"}, {RoomID: "r", Identity: "i"}} {
			_, err := c.Enter(t.Context(), o)
			wantCode(t, err, wire.Unauthenticated)
		}
	})
}

func TestSizesBelowZeroAreRefused(t *testing.T) {
	c, err := client.New("http://nobody.invalid")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []client.MemberOptions{{Buffer: -1}, {Outbox: -1}, {MaxFrameBytes: -1}} {
		if _, err := c.Enter(within(t, time.Second), o); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	}
}

func TestAPermitWhoseAnswerWasLostBecomesAWalkIn(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		srv.onJoin = func(n int, a attempt) *wire.Error {
			switch {
			case n == 1:
				return wire.Errorf(wire.Internal, "confirmed, but the answer was lost")
			case a.Permit != "":
				return wire.Errorf(wire.PermitExpired, "used")
			}
			return nil
		}
		enter(t, srv, client.MemberOptions{Identity: "i", Permit: "r.p"})
		if joins, _ := srv.seen(); len(joins) != 3 {
			t.Errorf("%d attempts", len(joins))
		}
	})
	bubble(t, func(t *testing.T, srv *fake) {
		srv.onJoin = func(int, attempt) *wire.Error { return wire.Errorf(wire.PermitExpired, "lapsed") }
		_, err := srv.client(t).Enter(t.Context(), client.MemberOptions{RoomID: "r", Identity: "i", Permit: "r.p"})
		wantCode(t, err, wire.PermitExpired)
	})
}

// A load balancer that has no gateway for a moment answers by itself, some with 404.
func TestAMemberOutlastsTheAnswersOfProxies(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		srv.proxy = []int{404, 408, 429, 500, 502, 503, 504}
		enter(t, srv, client.MemberOptions{Identity: "i"})
	})
	for _, status := range []int{400, 401, 403} {
		bubble(t, func(t *testing.T, srv *fake) {
			srv.proxy = []int{status}
			_, err := srv.client(t).Enter(t.Context(), client.MemberOptions{RoomID: "r", Identity: "i"})
			if e, ok := errors.AsType[*client.StatusError](err); !ok || e.Status != status {
				t.Errorf("got %v, want the status %d", err, status)
			}
		})
	}
}

func TestAPermitThatLapsedUnsentIsNoWalkIn(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		srv.proxy = []int{503, 503}
		srv.onJoin = func(_ int, a attempt) *wire.Error {
			if a.Permit != "" {
				return wire.Errorf(wire.PermitExpired, "lapsed")
			}
			return nil
		}
		_, err := srv.client(t).Enter(t.Context(), client.MemberOptions{RoomID: "r", Identity: "i", Permit: "r.p"})
		wantCode(t, err, wire.PermitExpired)
	})
}
