package roomlog_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/pipeline"
	"github.com/anteroom-chat/anteroom/pkg/redisdb"
	"github.com/anteroom-chat/anteroom/pkg/redistest"
	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

const patience = 20 * time.Second

// fixture is a room "r" with epoch "e1" in which user "a" has a seat with session "s1". It is
// written directly to Redis, because the room service is another package.
type fixture struct {
	*testing.T
	ctx    context.Context
	rdb    *redis.Client
	layout roomlog.Layout
	pub    *roomlog.Publisher
}

func newFixture(t *testing.T, rdb *redis.Client) *fixture {
	layout := roomlog.Layout{Partitions: 4}
	scripts := pipeline.New(rdb)
	t.Cleanup(scripts.Close)
	f := &fixture{T: t, ctx: t.Context(), rdb: rdb, layout: layout, pub: roomlog.NewPublisher(scripts, layout)}
	f.makeRoom("r")
	return f
}

func each(t *testing.T, test func(f *fixture)) {
	t.Helper()
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		t.Parallel()
		test(newFixture(t, rdb))
	})
}

// embedded runs a test on an embedded Redis whose clock the test sets.
func embedded(t *testing.T, test func(f *fixture, m *miniredis.Miniredis, now time.Time)) {
	t.Helper()
	t.Parallel()
	m := redistest.Embedded(t)
	f := newFixture(t, redistest.Client(t, "redis://"+m.Addr()))
	now := time.UnixMilli(1_800_000_000_000).UTC()
	m.SetTime(now)
	f.lease("r", "s1", now.Add(24*time.Hour))
	test(f, m, now)
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) makeRoom(id string) {
	f.Helper()
	f.must(f.rdb.HSet(f.ctx, f.layout.Keys(id).Room(), "epoch", "e1", "seq", 0).Err())
	f.lease(id, "s1", f.rdb.Time(f.ctx).Val().Add(time.Hour))
}

func (f *fixture) lease(id, session string, ends time.Time) {
	f.Helper()
	f.must(f.rdb.ZAdd(f.ctx, f.layout.Keys(id).Leases(), redis.Z{Score: float64(ends.UnixMilli()), Member: roomlog.Lease(id, session)}).Err())
	f.must(f.rdb.HSet(f.ctx, f.layout.Keys(id).Sessions(), session, "a").Err())
}

// message makes a message of "a" in "r".
func message(id, body string) roomlog.Message {
	return roomlog.Message{
		RoomID: "r", Epoch: "e1", Session: "s1", User: "a", ID: id,
		Tail: wire.MessageTail([]byte(`{"userId":"a"}`), id, []byte(body)),
	}
}

func (f *fixture) publish(m roomlog.Message) roomlog.Result {
	f.Helper()
	r, err := f.pub.PublishWait(f.ctx, m)
	f.must(err)
	return r
}

func (f *fixture) read(first, last int64) roomlog.Range {
	f.Helper()
	r, err := roomlog.Read(f.ctx, f.rdb, f.layout, "r", first, last, 0)
	f.must(err)
	return r
}

func seqs(r roomlog.Range) []int64 {
	var all []int64
	for _, e := range r.Entries {
		all = append(all, e.Seq)
	}
	return all
}

func upTo(first, last int64) []int64 {
	var all []int64
	for i := first; i <= last; i++ {
		all = append(all, i)
	}
	return all
}

func (f *fixture) eventually(what string, holds func() bool) {
	f.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.Fatalf("after %v still not: %s", patience, what)
		}
	}
}

func TestEntriesAreFramesWithRedisTimeAndSeqsWithoutAHole(t *testing.T) {
	each(t, func(f *fixture) {
		before := f.rdb.Time(f.ctx).Val().Truncate(time.Millisecond)
		for i := range 5 {
			if r := f.publish(message("", fmt.Sprintf(`{"n":%d}`, i))); r.Seq != int64(i+1) || r.Duplicate {
				f.Fatalf("%+v", r)
			}
		}
		after := f.rdb.Time(f.ctx).Val()
		got := f.read(1, 0)
		if got.Epoch != "e1" || got.Last != 5 || got.Occupied != 1 {
			f.Fatalf("%+v", got)
		}
		for i, e := range got.Entries {
			var frame wire.ServerFrame
			f.must(json.Unmarshal(e.Frame, &frame))
			want := wire.ServerFrame{Type: wire.TypeMessage, Seq: int64(i + 1), Time: frame.Time, From: &wire.Member{UserID: "a"}, Body: fmt.Appendf(nil, `{"n":%d}`, i)}
			if diff := cmp.Diff(want, frame); diff != "" {
				f.Fatal(diff)
			}
			if frame.Time.Before(before) || frame.Time.After(after) {
				f.Fatalf("at %v, between %v and %v", frame.Time, before, after)
			}
		}
	})
}

// A script's time is right at every leap day, century and year's end.
func TestTheDateOfAnEntryIsThatOfGo(t *testing.T) {
	each(t, func(f *fixture) {
		seed := rand.Uint64()
		f.Logf("seed %d", seed)
		rng := rand.New(rand.NewPCG(seed, 0))
		var times []int64
		for year := 1970; year <= 2405; year++ {
			for _, at := range []time.Time{time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(year, 3, 1, 0, 0, 0, 0, time.UTC)} {
				times = append(times, max(0, at.UnixMilli()-1), at.UnixMilli())
			}
		}
		limit := time.Date(2500, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()
		for range 3000 {
			times = append(times, rng.Int64N(limit))
		}
		args := make([]any, len(times))
		for i, ms := range times {
			args[i] = fmt.Sprintf("%04d", ms)
		}
		got, err := f.rdb.Eval(f.ctx, roomlog.BeginLua+roomlog.EntryLua+`
			local answer = {}
			for i, s in ipairs(ARGV) do answer[i] = rfc3339(string.match(s, '^(%d+)(%d%d%d)$')) end
			return answer`, nil, args...).StringSlice()
		f.must(err)
		for i, ms := range times {
			if want := wire.FormatTime(time.UnixMilli(ms)); got[i] != want {
				f.Fatalf("%d ms: %s, want %s", ms, got[i], want)
			}
		}
	})
}

func TestReadAnswersWithTheRangeAsked(t *testing.T) {
	each(t, func(f *fixture) {
		for range 10 {
			f.publish(message("", "1"))
		}
		for _, c := range []struct {
			first, last int64
			want        []int64
		}{
			{1, 0, upTo(1, 10)}, {0, 0, upTo(1, 10)}, {4, 6, upTo(4, 6)}, {4, 4, upTo(4, 4)}, {9, 99, upTo(9, 10)},
			{11, 0, nil}, {7, 6, nil}, {11, 20, nil},
		} {
			if diff := cmp.Diff(c.want, seqs(f.read(c.first, c.last))); diff != "" {
				f.Errorf("%d to %d: %s", c.first, c.last, diff)
			}
		}
		_, err := roomlog.Read(f.ctx, f.rdb, f.layout, "nowhere", 1, 0, 0)
		if wire.CodeOf(err) != wire.RoomNotFound {
			f.Error(err)
		}
	})
}

func TestPageEndsWithTheEntryThatFillsIt(t *testing.T) {
	each(t, func(f *fixture) {
		for range 150 {
			f.publish(message("", `"`+strings.Repeat("x", 1000)+`"`))
		}
		size := len(f.read(1, 1).Entries[0].Frame) // later frames may have up to 2 bytes more
		for _, c := range []struct {
			first, last int64
			bytes       int
			want        []int64
			more        bool
		}{
			{1, 0, 1, upTo(1, 1), true}, {1, 0, size, upTo(1, 1), true}, {1, 0, size + 1, upTo(1, 2), true},
			{5, 7, 10 * size, upTo(5, 7), false}, {5, 7, 2 * size, upTo(5, 6), true}, {5, 5, 1, upTo(5, 5), false},
			{1, 0, 100*size + 50, upTo(1, 100), true}, {1, 0, 1 << 20, upTo(1, 150), false}, {151, 0, 1, nil, false},
		} {
			got, err := roomlog.Read(f.ctx, f.rdb, f.layout, "r", c.first, c.last, c.bytes)
			f.must(err)
			if diff := cmp.Diff(c.want, seqs(got)); diff != "" || got.More != c.more || got.Last != 150 {
				f.Errorf("%d to %d of %d bytes: more %v, last %d: %s", c.first, c.last, c.bytes, got.More, got.Last, diff)
			}
		}
	})
}

func TestHistoryIsTheLastThousandEntries(t *testing.T) {
	each(t, func(f *fixture) {
		const sent = 1250
		for range sent / 250 { // in small groups, so that none waits 3 s for the embedded store, which is slow
			done := make(chan roomlog.Result, 250)
			for range cap(done) {
				m := message("", `"x"`)
				m.Done = func(r roomlog.Result) { done <- r }
				f.pub.Publish(&m)
			}
			for range cap(done) {
				f.must((<-done).Err)
			}
		}
		if diff := cmp.Diff(upTo(sent-wire.HistoryEntries+1, sent), seqs(f.read(1, 0))); diff != "" {
			f.Fatal(diff)
		}
		if n := f.rdb.XLen(f.ctx, f.layout.Keys("r").Log()).Val(); n > wire.HistoryEntries+150 {
			f.Errorf("%d entries are kept", n)
		}
	})
}

func TestHistoryIsTenMinutes(t *testing.T) {
	embedded(t, func(f *fixture, m *miniredis.Miniredis, now time.Time) {
		f.publish(message("", "1"))
		m.SetTime(now.Add(time.Minute))
		f.publish(message("", "2"))
		m.SetTime(now.Add(wire.HistoryAge))
		f.publish(message("", "3"))
		if diff := cmp.Diff(upTo(1, 3), seqs(f.read(1, 0))); diff != "" {
			f.Error(diff)
		}
		m.SetTime(now.Add(wire.HistoryAge + time.Millisecond))
		if diff := cmp.Diff(upTo(2, 3), seqs(f.read(1, 0))); diff != "" {
			f.Error(diff)
		}
	})
}

func TestAClockSetBackMakesNoHole(t *testing.T) {
	embedded(t, func(f *fixture, m *miniredis.Miniredis, now time.Time) {
		for _, at := range []time.Duration{0, wire.HistoryAge, 0, wire.HistoryAge} {
			m.SetTime(now.Add(at))
			f.publish(message("", "1"))
		}
		m.SetTime(now.Add(wire.HistoryAge + time.Second))
		if diff := cmp.Diff(upTo(2, 4), seqs(f.read(1, 0))); diff != "" {
			f.Error(diff)
		}
	})
}

func TestProcessesThatDisagreeOnPartitionsDoNotStart(t *testing.T) {
	each(t, func(f *fixture) {
		f.must(roomlog.Agree(f.ctx, f.rdb, roomlog.Layout{Partitions: 64}))
		f.must(roomlog.Agree(f.ctx, f.rdb, roomlog.Layout{Partitions: 64}))
		if err := roomlog.Agree(f.ctx, f.rdb, roomlog.Layout{Partitions: 32}); err == nil || wire.CodeOf(err) == wire.Unavailable {
			f.Fatal(err)
		}
	})
}

// Such versions keep their rooms under different keys, so together they would admit too many
// users.
func TestProcessesOfVersionsThatDisagreeOnKeysDoNotStart(t *testing.T) {
	for name, before := range map[string]string{"the first": "64", "one to come": "64, keys 3"} {
		t.Run(name, func(t *testing.T) {
			each(t, func(f *fixture) {
				f.must(f.rdb.HSet(f.ctx, roomlog.ClusterKey, "partitions", before).Err())
				if err := roomlog.Agree(f.ctx, f.rdb, roomlog.Layout{Partitions: 64}); err == nil || wire.CodeOf(err) == wire.Unavailable {
					f.Fatal(err)
				}
			})
		})
	}
}

// informed is a Redis that reports another version and mode.
type informed struct {
	redisdb.Redis
	version, mode string
}

func (r informed) Info(ctx context.Context, _ ...string) *redis.StringCmd {
	cmd := redis.NewStringCmd(ctx, "INFO")
	cmd.SetVal("# Server\r\nredis_version:" + r.version + "\r\nredis_mode:" + r.mode + "\r\n")
	return cmd
}

func TestARedisThatIsTooOldOrAClusterIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t, redistest.Client(t, "redis://"+redistest.Embedded(t).Addr()))
	for version, good := range map[string]bool{
		"6.0.16": false, "6.2.14": false, "7.0.15": true, "8.2.1": true, "10.0.0": true, "": true, "unstable": true,
	} {
		if err := roomlog.Agree(f.ctx, informed{f.rdb, version, "standalone"}, f.layout); (err == nil) != good {
			t.Errorf("version %q: %v", version, err)
		}
	}
	if err := roomlog.Agree(f.ctx, informed{f.rdb, "7.2.0", "cluster"}, f.layout); err == nil {
		t.Error("a cluster was taken")
	}
}

func FuzzParseEvent(f *testing.F) {
	for _, s := range []string{`m e1 1 {"type":"MESSAGE"}`, "d e1 0 ", "o e1 0 12", "r e 0 s1", "", " ", "m  1 x", "m e -1 x", "mm e 1 x", "m e 1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, payload string) {
		e, err := roomlog.ParseEvent(payload)
		if err != nil {
			return
		}
		again, err := roomlog.ParseEvent(fmt.Sprintf("%s %s %d %s", []byte{byte(e.Kind)}, e.Epoch, e.Seq, e.Data))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(e, again); diff != "" {
			t.Fatal(diff)
		}
	})
}
