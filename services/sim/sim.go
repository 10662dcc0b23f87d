// Package sim runs the whole system in virtual time, with operations and faults from a
// seed, and checks every promise of docs/protocol.md, section 1, that can be observed there.
//
// One simulation is one testing/synctest bubble. It contains the real gateways and room
// services, the real scripts on the embedded store, users with the real client, and a
// network in memory that loses, delays and repeats data, and freezes and cuts connections:
//
//	users ══ gateways ── calls ── room services
//	             ╚═════ Redis ═════╝
//
// A plan says what happens. It is made from the seed beforehand, so it can be replayed,
// shortened while it still fails (Shrink), and kept as text. The checkers are:
//
//	truth   after every step, checks Redis' state: I1, I2, I5, I8, no key without a room
//	logs    replays every room's log (package audit); senders of messages had a lease (I6)
//	frames  checks what gateways write: nothing to a session whose lease has ended (I6)
//	model   checks with porcupine that the calls, as the room services answered them, are
//	        linearizable against a model of a room with its seats (I1–I5)
//	member  checks that each user received the log, in order and in the end completely
//	        (I7, package audit)
//
// Each plan has a scene (scenes.go) with so many messages, members or slow readers that the
// gateway reaches its rarer states. reach.go counts them.
//
// A Redis that forgets and clocks that differ are not simulated; docs/correctness.md says
// what that means.
package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
)

// Violation is a promise that was broken.
type Violation struct {
	At   time.Duration // since the simulation's start
	Rule string
	Text string
}

// String describes the violation in one line.
func (v Violation) String() string {
	return fmt.Sprintf("%9.3fs %s: %s", v.At.Seconds(), v.Rule, v.Text)
}

// Result is the outcome of a simulation.
type Result struct {
	Plan       Plan
	Operations int            // of users
	Outcomes   map[string]int // number of operations, by kind and outcome
	Faults     map[string]int // number of faults, by kind
	Calls      int            // carried out by room services
	Entries    int            // of rooms' logs
	Sessions   int
	Span       time.Duration  // of virtual time
	Reached    map[string]int // how often states were reached that are rare, by name
	Freed      int            // seats of dead processes that became free again
	Longest    time.Duration  // longest time until such a seat was free
	Violations []Violation
	Undecided  int      // rooms with too many calls to put them in order
	Trace      []string // with Config.Trace
}

// Run executes a plan in a bubble of its own.
func Run(t *testing.T, p Plan, c Config) Result {
	var w *world
	synctest.Test(t, func(t *testing.T) {
		var err error
		if w, err = newWorld(p, c.orDefaults()); err != nil {
			t.Fatal(err)
		}
		w.run()
	})
	w.linearize() // outside the bubble, since its time limit is in real time
	return w.result()
}

func (w *world) run() {
	for i, s := range w.plan.Steps {
		w.pass(s.After)
		w.note("step  %v", s)
		if _, ok := operations[s.Do]; ok {
			u, s := w.actor(s)
			w.acting.Go(func() { u.act(i, s) })
		} else {
			w.strike(s)
		}
		w.look()
	}
	w.windUp()
	w.span = w.now()
	w.stop()
	w.log.audit()
}

// look checks Redis' state once all goroutines wait for something.
func (w *world) look() {
	synctest.Wait()
	w.truth.check()
}

// pass lets time pass, and checks Redis' state meanwhile.
func (w *world) pass(d time.Duration) {
	for d > 0 {
		part := min(d, pollEvery)
		time.Sleep(part)
		d -= part
		w.look()
	}
}

// windUp waits for the faults to end, checks that every tab has its log, also after lastWords,
// makes all users leave, and waits until Redis is empty.
func (w *world) windUp() {
	const (
		faultsEnd = 40 * time.Second  // the longest lasts 35 s
		mostAfter = 200 * time.Second // a dead peer's 35 s, lease, the rooms' timeouts
	)
	w.pass(faultsEnd)
	w.acting.Wait()
	w.complete(2 * time.Second)
	w.lastWords()
	w.complete(6 * time.Second) // a deaf subscription is noticed within 5 s
	for i, u := range w.people {
		if i%2 == 0 {
			u.cut()
		}
		for t := u.anyTab(); t != nil; t = u.anyTab() {
			u.drop(t)
			w.acting.Go(func() { _ = t.session.Close(1000) })
		}
	}
	left := w.left()
	for began := w.now(); len(left) > 0 && w.now()-began < mostAfter; left = w.left() {
		w.pass(time.Second)
	}
	if len(left) > 0 {
		w.tell("end", "Redis holds %v", left)
	}
}

// lastWords publishes a last message in each room while no gateway hears it. Each gateway
// must notice by itself that it missed something and read it, for no later entry shows that
// there is a hole. The subscriptions of some gateways are cut; those of the others stay open
// but bring nothing any more.
func (w *world) lastWords() {
	rooms := make(map[string]bool)
	for _, u := range w.people {
		for _, t := range u.allTabs() {
			rooms[roomID(t.room)] = true
		}
	}
	for slot := range w.gateways {
		strike := cutLocked
		if (w.plan.Seed+uint64(slot))%2 == 0 {
			strike = func(s *stream) { s.deaf = true }
		}
		w.net.subscriptions(w.gateway(slot).host, strike)
	}
	for _, id := range slices.Sorted(maps.Keys(rooms)) {
		req := &roomv1.PublishRequest{RoomId: id, Body: structpb.NewStringValue("good night")}
		if _, err := w.roomService(0).srv.Publish(w.ctx, req); err != nil && wire.CodeOf(err) != wire.RoomNotFound {
			w.tell("end", "nothing can be said in %s: %v", id, err)
		}
	}
}

// complete checks that each tab has everything that was in its log a while before. A tab
// that lags without noticing would lag for ever.
func (w *world) complete(while time.Duration) {
	type due struct {
		user *user
		tab  *tab
		seq  int64
	}
	var all []due
	for _, u := range w.people {
		for _, t := range u.allTabs() {
			all = append(all, due{u, t, w.log.last(roomID(t.room), t.session.Joined().Epoch)})
		}
	}
	w.pass(while)
	for _, d := range all {
		if at := d.tab.session.Position().Seq; at < d.seq && slices.Contains(d.user.allTabs(), d.tab) {
			w.tell("I7", "%s in %s is at %d, the log was at %d %v ago", d.user.id, roomID(d.tab.room), at, d.seq, while)
		}
	}
}

// left returns the keys that are left in Redis, without the partitions' sets of sessions
// that ended, which stay for two minutes.
func (w *world) left() []string {
	return slices.DeleteFunc(w.redis.Keys(), func(key string) bool {
		return strings.HasSuffix(key, ":spent")
	})
}

func (w *world) result() Result {
	r := Result{
		Plan: w.plan, Outcomes: w.done, Faults: w.struck, Calls: len(w.history.calls), Entries: w.log.entries,
		Sessions: len(w.truth.sessions), Span: w.span, Freed: w.truth.seatsFreed, Longest: w.truth.longest,
		Reached: w.reached, Violations: w.found, Trace: w.trace, Undecided: w.undecided,
	}
	for _, n := range w.done {
		r.Operations += n
	}
	return r
}

// Table formats a map's entries in one line, sorted by name.
func Table(m map[string]int) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, " %s=%d", name, m[name])
	}
	return strings.TrimSpace(b.String())
}
