package gateway

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// say begins a message of a member, sent now.
func (st *stage) say(m *member) *outMessage {
	defer m.talking()
	return m.outgoing.begin("said", st.shard.hub.clock(), m.sentUpTo())
}

// watch runs the keeper for d. It returns when the keeper ended the session, 0 if it did not.
func (st *stage) watch(m *member, d time.Duration) time.Duration {
	g := &Gateway{cfg: Config{Rooms: &renewals{}}, hub: st.shard.hub, metrics: newMetrics(nil)}
	k := newKeeper(g)
	m.g = g
	k.add(m.session)
	began := st.shard.hub.clock()
	k.ticked = began
	for st.shard.hub.clock()-began < d {
		time.Sleep(keeperTick)
		m.hear()
		k.tick(st.t.Context())
		if m.sock.closeCode() != 0 {
			return st.shard.hub.clock() - began
		}
		st.step()
	}
	return 0
}

// gap makes a GAP of the entries that were appended but not published: history has only one
// entry after them.
func (st *stage) gap() {
	last := st.append()
	st.set(func() { st.kept = 1 })
	st.publish(last)
	st.step()
}

func TestMessageWithoutAnyAnswerClosesAfterTenSeconds(t *testing.T) {
	for name, say := range map[string]func(*stage, *member){
		"its publishing never ends": func(st *stage, m *member) { st.say(m) },
		"no seat, and nobody says why": func(st *stage, m *member) {
			st.say(m)
			m.outgoing.unknown()
		},
		"in the log, which nobody can read": func(st *stage, m *member) {
			m.outgoing.appended(st.say(m), st.append().Seq)
			st.fault = context.DeadlineExceeded
		},
		"the second of two": func(st *stage, m *member) {
			first, second := st.say(m), st.say(m)
			e := st.append()
			m.outgoing.appended(first, e.Seq)
			st.publish(e)
			st.step()
			m.outgoing.appended(second, st.append().Seq)
			st.fault = context.DeadlineExceeded
		},
		"behind one that was refused": func(st *stage, m *member) {
			first := st.say(m)
			st.say(m)
			m.outgoing.answered(first)
		},
	} {
		t.Run(name, func(t *testing.T) {
			onStage(t, func(t *testing.T, st *stage) {
				m := st.join()
				say(st, m)
				if d := st.watch(m, time.Minute); d < wire.EchoTimeout || d > wire.EchoTimeout+keeperTick {
					t.Fatalf("ended after %v", d)
				}
				if code := m.sock.closeCode(); code != wire.CloseUnavailable {
					t.Fatalf("closed with %d", code)
				}
			})
		})
	}
}

func TestEchoThatIsLateIsReadFromTheLog(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		m.outgoing.appended(st.say(m), st.append().Seq) // not published
		if d := st.watch(m, echoLate+2*keeperTick); d != 0 {
			t.Fatalf("ended after %v", d)
		}
		st.got(m, span("E1", 1, 1)...)
		if d := st.watch(m, time.Minute); d != 0 {
			t.Fatalf("ended after %v", d)
		}
	})
}

func TestMessagesWhoseEchoesAreInAGapGetAnError(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		m.g = &Gateway{hub: st.shard.hub, metrics: newMetrics(nil)}
		came, early, late := st.say(m), st.say(m), st.say(m)
		e := st.append()
		m.outgoing.appended(came, e.Seq)
		st.publish(e)
		st.step()
		m.outgoing.appended(early, st.append().Seq)
		lost := st.append().Seq
		st.gap()
		m.published(late, nil, roomlog.Result{Seq: lost})
		st.step()
		var unknown []string
		for _, f := range m.tape.frames() {
			if strings.Contains(f, string(wire.Unavailable)) && strings.Contains(f, `"id":"said"`) {
				unknown = append(unknown, f)
			}
		}
		if len(unknown) != 2 {
			t.Errorf("got %q, want 2 errors", m.tape.frames())
		}
		if d := st.watch(m, time.Minute); d != 0 {
			t.Errorf("ended after %v", d)
		}
	})
}

// The script's answer comes after the echo, and after a GAP.
func TestAMessageIsNotEchoedAndRefused(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		m.g = &Gateway{hub: st.shard.hub, metrics: newMetrics(nil)}
		said, e := st.say(m), st.append()
		st.publish(e)
		st.step()
		st.append()
		st.gap()
		m.published(said, nil, roomlog.Result{Seq: e.Seq})
		st.got(m, "E1/1", string(wire.GapFrame(2, 2)), "E1/3")
	})
}

func TestWhatIsAnsweredIsForgotten(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		for range 100 {
			answered, echoed := st.say(m), st.say(m)
			m.outgoing.answered(answered)
			e := st.append()
			m.outgoing.appended(echoed, e.Seq)
			st.publish(e)
			st.step()
		}
		if _, _, ok := m.outgoing.oldest(m.sentUpTo()); ok || len(m.outgoing.waiting) != 0 {
			t.Fatalf("%d messages wait", len(m.outgoing.waiting))
		}
		if got := m.outgoing.last(); got != 100 {
			t.Fatalf("the newest is %d", got)
		}
	})
}

func TestSenderIsReadMoreSlowlyWhileManyMessagesAreOnTheirWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o outgoing
		var first *outMessage
		for range maxInflight {
			first = o.begin("", 0, 0)
		}
		began := make(chan struct{})
		go func() { defer close(began); o.begin("", 0, 0) }()
		synctest.Wait()
		select {
		case <-began:
			t.Fatal("one more was begun")
		default:
		}
		o.answered(first)
		<-began
	})
}

// The log of the room's old epoch was longer. That must not count as an answer to a message in
// the new epoch.
func TestMessageInTheNextLifeOfARoomIsNotTakenForAnswered(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		st.join()
		st.publish(st.appendMany(10)...)
		st.step()
		st.again("E2")
		st.set(func() { st.fault = context.DeadlineExceeded })
		m := st.join()
		e := st.append()
		m.outgoing.appended(st.say(m), e.Seq)
		st.publish(e)
		if d := st.watch(m, time.Minute); d < wire.EchoTimeout || d > wire.EchoTimeout+keeperTick {
			t.Errorf("ended after %v", d)
		}
	})
}

func TestAnEchoCountsOnceTwoLivesOfARoomAreToldApart(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		stale := st.joining()
		stale.joined.Epoch = "E0"
		e := st.append()
		said := st.say(m)
		st.publish(e)
		m.outgoing.appended(said, e.Seq)
		st.step()
		st.joined(stale)
		st.step()
		if d := st.watch(m, 30*time.Second); d != 0 {
			t.Errorf("a member that has its echo was ended after %v with %v", d, m.sock.closeCode())
		}
	})
}
