// The rules of a room.Store, one test a rule, each on the embedded and on a real Redis.
package redisstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/pipeline"
	"github.com/anteroom-chat/anteroom/pkg/redistest"
	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/room"
	"github.com/anteroom-chat/anteroom/services/room/redisstore"
)

const patience = 20 * time.Second // for conditions that are met within a few hundred ms

// brief are rules that let a test wait for a permit or lease to end.
var brief = room.Rules{PermitTTL: 200 * time.Millisecond, Lease: 200 * time.Millisecond}

// fixture is a store with a Redis of its own.
type fixture struct {
	*testing.T
	ctx     context.Context
	rdb     *redis.Client
	scripts *pipeline.Runner
	layout  roomlog.Layout
	store   *redisstore.Store
}

func newFixture(t *testing.T, rdb *redis.Client, rules room.Rules) *fixture {
	layout := roomlog.Layout{Partitions: 4}
	scripts := pipeline.New(rdb)
	t.Cleanup(scripts.Close)
	return &fixture{t, t.Context(), rdb, scripts, layout, redisstore.NewWithRules(rdb, scripts, layout, rules)}
}

func each(t *testing.T, rules room.Rules, test func(f *fixture)) {
	t.Helper()
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		t.Parallel()
		test(newFixture(t, rdb, rules))
	})
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// create makes room "r", as modified by change.
func (f *fixture) create(capacity int, change ...func(*room.Spec)) room.Room {
	f.Helper()
	spec := room.Spec{
		ID: "r", Epoch: "e1", Title: "T", Capacity: capacity, Presence: room.PresenceFull,
		EmptyTimeout: time.Hour, DepartureTimeout: 0,
	}
	for _, c := range change {
		c(&spec)
	}
	r, err := f.store.Create(f.ctx, spec)
	f.must(err)
	return r
}

func named(id string) func(*room.Spec)         { return func(s *room.Spec) { s.ID = id } }
func counting(s *room.Spec)                    { s.Presence = room.PresenceCount }
func outlasting(s *room.Spec)                  { s.DepartureTimeout = time.Hour }
func (f *fixture) keys(id string) roomlog.Keys { return f.layout.Keys(id) }

func secretOf(p room.Permit) string {
	_, secret, _ := wire.SplitPermit(p.Token)
	return secret
}

// reserve reserves a seat of "r" and returns the permit's secret.
func (f *fixture) reserve(user string) string {
	f.Helper()
	p, err := f.store.Reserve(f.ctx, "r", wire.Member{UserID: user, Nickname: "N" + user}, "secret-"+user)
	f.must(err)
	return secretOf(p)
}

func (f *fixture) confirm(j room.Join) (room.Joined, error) {
	if j.RoomID == "" {
		j.RoomID = "r"
	}
	if j.Gateway == "" {
		j.Gateway = "g1"
	}
	return f.store.Confirm(f.ctx, j)
}

// walkIn confirms a session of a user in "r" without a permit.
func (f *fixture) walkIn(user, session string) room.Joined {
	f.Helper()
	joined, err := f.confirm(room.Join{Member: wire.Member{UserID: user}, Session: session})
	f.must(err)
	return joined
}

func (f *fixture) leave(session string) {
	f.Helper()
	f.must(f.store.Leave(f.ctx, "r", session, wire.ReasonLeft, true))
}

// leaseEnds returns when a session's lease in "r" ends, in ms, or 0 if it has none.
func (f *fixture) leaseEnds(session string) float64 {
	return f.rdb.ZScore(f.ctx, f.keys("r").Leases(), roomlog.Lease("r", session)).Val()
}

// counts checks the numbers of reserved and occupied seats of "r".
func (f *fixture) counts(reserved, occupied int) {
	f.Helper()
	r, err := f.store.Get(f.ctx, "r")
	f.must(err)
	if r.Reserved != reserved || r.Occupied != occupied {
		f.Fatalf("reserved %d, occupied %d; want %d, %d", r.Reserved, r.Occupied, reserved, occupied)
	}
}

func (f *fixture) refused(err error, code wire.Code) {
	f.Helper()
	if refusal, ok := errors.AsType[*wire.Error](err); !ok || refusal.Code != code {
		f.Fatalf("error %v; want %s", err, code)
	}
}

// log reads the whole log of "r".
func (f *fixture) log() []wire.ServerFrame {
	f.Helper()
	r, err := roomlog.Read(f.ctx, f.rdb, f.layout, "r", 1, 0, 0)
	f.must(err)
	var frames []wire.ServerFrame
	for i, e := range r.Entries {
		var frame wire.ServerFrame
		if err := json.Unmarshal(e.Frame, &frame); err != nil {
			f.Fatalf("%s: %v", e.Frame, err)
		}
		if frame.Seq != e.Seq || e.Seq != r.Entries[0].Seq+int64(i) {
			f.Fatalf("entry %d has seq %d in its frame, in a log from %d", e.Seq, frame.Seq, r.Entries[0].Seq)
		}
		frames = append(frames, frame)
	}
	return frames
}

// lines formats a log for comparisons.
func lines(frames []wire.ServerFrame) string {
	var b strings.Builder
	for _, frame := range frames {
		switch frame.Type {
		case wire.TypeMemberJoined:
			fmt.Fprintf(&b, "%d +%s =%d\n", frame.Seq, frame.Member.UserID, frame.Occupied)
		case wire.TypeMemberLeft:
			fmt.Fprintf(&b, "%d -%s %s =%d\n", frame.Seq, frame.Member.UserID, frame.Reason, frame.Occupied)
		default:
			fmt.Fprintf(&b, "%d %s\n", frame.Seq, frame.Type)
		}
	}
	return b.String()
}

func (f *fixture) wantLog(want ...string) {
	f.Helper()
	got := lines(f.log())
	if w := strings.Join(want, "\n") + "\n"; got != w {
		f.Fatalf("log:\n%swant:\n%s", got, w)
	}
}

// roomKeys returns the keys that a room has in Redis.
func (f *fixture) roomKeys(id string) []string {
	f.Helper()
	var keys []string
	for it := f.rdb.Scan(f.ctx, 0, "*:r:"+id+":*", 1000).Iterator(); it.Next(f.ctx); {
		keys = append(keys, it.Val())
	}
	return keys
}

// gone checks that nothing of a room is left.
func (f *fixture) gone(id string) {
	f.Helper()
	if keys := f.roomKeys(id); len(keys) > 0 {
		f.Fatalf("the room left %v", keys)
	}
	p := f.layout.Partition(id)
	for _, index := range []string{roomlog.RoomsKey(p), roomlog.DueKey(p)} {
		if slices.Contains(f.rdb.ZRange(f.ctx, index, 0, -1).Val(), id) {
			f.Fatalf("the room still stands in %s", index)
		}
	}
	for _, lease := range f.rdb.ZRange(f.ctx, roomlog.LeasesKey(p), 0, -1).Val() {
		if strings.HasPrefix(lease, roomlog.Lease(id, "")) {
			f.Fatalf("the room left the lease %q", lease)
		}
	}
	_, err := f.store.Get(f.ctx, id)
	f.refused(err, wire.RoomNotFound)
}

// visits returns visits to rooms of which the reaper knows no lease that has ended.
func visits(ids ...string) (v []room.Visit) {
	for _, id := range ids {
		v = append(v, room.Visit{RoomID: id})
	}
	return v
}

// reap makes one round of the reaper.
func (f *fixture) reap() int {
	f.Helper()
	due, _, err := f.store.Due(f.ctx)
	f.must(err)
	n, err := f.store.Expire(f.ctx, due)
	f.must(err)
	return n
}

func (f *fixture) eventually(what string, holds func() bool) {
	f.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.Fatalf("after %v still not: %s", patience, what)
		}
	}
}

// events subscribes to the channel of "r". next returns the next event.
func (f *fixture) events() (next func() roomlog.Event) {
	f.Helper()
	ps := f.rdb.Subscribe(f.ctx, f.keys("r").Channel())
	f.Cleanup(func() { _ = ps.Close() })
	_, err := ps.Receive(f.ctx)
	f.must(err)
	return func() roomlog.Event {
		f.Helper()
		ctx, cancel := context.WithTimeout(f.ctx, patience)
		defer cancel()
		msg, err := ps.ReceiveMessage(ctx)
		f.must(err)
		e, err := roomlog.ParseEvent(msg.Payload)
		f.must(err)
		return e
	}
}

func (f *fixture) wantEvent(e roomlog.Event, kind roomlog.Kind, data string) {
	f.Helper()
	if e.Kind != kind || e.Seq != 0 || e.Epoch != "e1" || string(e.Data) != data {
		f.Fatalf("event %c seq %d epoch %s data %q; want notice %c with %q", e.Kind, e.Seq, e.Epoch, e.Data, kind, data)
	}
}

func users(members []wire.Member) []string {
	var ids []string
	for _, m := range members {
		ids = append(ids, m.UserID)
	}
	slices.Sort(ids)
	return ids
}
