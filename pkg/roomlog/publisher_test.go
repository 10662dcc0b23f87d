package roomlog_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/anteroom-chat/anteroom/pkg/redistest"
	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

func TestAMessageIDIsRememberedForTwoMinutes(t *testing.T) {
	// At whatever time within a period the id is first used.
	for offset := time.Duration(0); offset < 4*time.Minute; offset += 29 * time.Second {
		t.Run(offset.String(), func(t *testing.T) {
			embedded(t, func(f *fixture, m *miniredis.Miniredis, now time.Time) {
				now = now.Truncate(4 * time.Minute).Add(offset)
				m.SetTime(now)
				first := f.publish(message("id", "1"))
				f.publish(message("other", "1"))
				// Each use counts, also one that was not delivered again.
				used := time.Duration(0)
				for _, pause := range []time.Duration{0, time.Minute, wire.MessageIDAge - time.Millisecond, wire.MessageIDAge - time.Millisecond} {
					used += pause
					m.SetTime(now.Add(used))
					if r := f.publish(message("id", "1")); r.Seq != first.Seq || !r.Duplicate || !r.Time.Equal(now.Truncate(time.Millisecond)) {
						f.Fatalf("after %v: %+v", used, r)
					}
				}
				used += wire.MessageIDAge
				m.SetTime(now.Add(used))
				if r := f.publish(message("id", "1")); r.Seq != 3 || r.Duplicate {
					f.Fatalf("two minutes after its last use: %+v", r)
				}
				m.SetTime(now.Add(used + time.Minute))
				if r := f.publish(message("id", "1")); r.Seq != 3 || !r.Duplicate {
					f.Fatalf("a minute after that: %+v", r)
				}
				for _, key := range f.layout.Keys("r").MessageIDs() {
					if f.rdb.Exists(f.ctx, key).Val() == 1 && f.rdb.PTTL(f.ctx, key).Val() > 2*wire.MessageIDAge {
						f.Errorf("%s lapses in %v", key, f.rdb.PTTL(f.ctx, key).Val())
					}
				}
			})
		})
	}
}

func TestMessageIDsAreTheUsersOwn(t *testing.T) {
	each(t, func(f *fixture) {
		f.publish(message("id", "1"))
		other := message("id", "1")
		other.User = "b"
		if r := f.publish(other); r.Duplicate || r.Seq != 2 {
			f.Fatalf("%+v", r)
		}
		if r := f.publish(message("", "1")); r.Duplicate || r.Seq != 3 {
			f.Fatalf("%+v", r)
		}
		if r := f.publish(message("", "1")); r.Duplicate || r.Seq != 4 {
			f.Fatalf("%+v", r)
		}
	})
}

func TestASessionWithoutALiveLeaseSendsNothing(t *testing.T) {
	each(t, func(f *fixture) {
		f.lease("r", "ended", f.rdb.Time(f.ctx).Val())
		for _, session := range []string{"never", "ended"} {
			m := message("", "1")
			m.Session = session
			if _, err := f.pub.PublishWait(f.ctx, m); !errors.Is(err, roomlog.ErrNoSeat) {
				f.Errorf("%s: %v", session, err)
			}
		}
		gone := message("", "1")
		gone.RoomID = "nowhere"
		if _, err := f.pub.PublishWait(f.ctx, gone); !errors.Is(err, roomlog.ErrNoSeat) {
			f.Error(err)
		}
		if r := f.read(1, 0); r.Last != 0 {
			f.Errorf("%+v", r)
		}
	})
}

// The leases are in a key of the partition, which remains when somebody deletes the room's
// keys.
func TestARoomDeletedByHandTakesNoMessageAndLeavesNothing(t *testing.T) {
	each(t, func(f *fixture) {
		k := f.layout.Keys("r")
		f.must(f.rdb.Del(f.ctx, k.Room(), k.Log(), k.Sessions()).Err())
		if _, err := f.pub.PublishWait(f.ctx, message("id", "1")); !errors.Is(err, roomlog.ErrNoSeat) {
			f.Error(err)
		}
		if keys := f.rdb.Keys(f.ctx, "*").Val(); len(keys) > 0 {
			f.Errorf("%q are left", keys)
		}
	})
}

func TestTheApplicationNeedsARoomAndNoSeat(t *testing.T) {
	each(t, func(f *fixture) {
		m := roomlog.Message{RoomID: "r", User: wire.SystemUser, Tail: wire.MessageTail([]byte(`{"userId":"system"}`), "", []byte(`1`))}
		if r := f.publish(m); r.Seq != 1 {
			f.Fatalf("%+v", r)
		}
		m.RoomID = "nowhere"
		if _, err := f.pub.PublishWait(f.ctx, m); wire.CodeOf(err) != wire.RoomNotFound {
			f.Fatal(err)
		}
		if n := f.rdb.Exists(f.ctx, f.layout.Keys("nowhere").Room(), f.layout.Keys("nowhere").Log()).Val(); n != 0 {
			f.Fatal("a room was made")
		}
	})
}

func TestMessagesOfARoomKeepTheOrderInWhichTheyWereGiven(t *testing.T) {
	each(t, func(f *fixture) {
		const rooms, each = 5, 150 // several batches
		var done sync.WaitGroup
		for i := range rooms {
			f.makeRoom(fmt.Sprintf("r%d", i))
		}
		for n := range each {
			for i := range rooms {
				m := message("", fmt.Sprint(n))
				m.RoomID = fmt.Sprintf("r%d", i)
				done.Add(1)
				m.Done = func(r roomlog.Result) {
					defer done.Done()
					if r.Err != nil || r.Seq != int64(n+1) {
						f.Errorf("message %d: %+v", n, r)
					}
				}
				f.pub.Publish(&m)
			}
		}
		done.Wait()
		for i := range rooms {
			r, err := roomlog.Read(f.ctx, f.rdb, f.layout, fmt.Sprintf("r%d", i), 1, 0, 0)
			f.must(err)
			for n, e := range r.Entries {
				var frame wire.ServerFrame
				f.must(json.Unmarshal(e.Frame, &frame))
				if string(frame.Body) != fmt.Sprint(n) {
					f.Fatalf("entry %d is %s", n, e.Frame)
				}
			}
		}
	})
}

func TestAMessageThatCannotBeAppendedIsTheOnlyOne(t *testing.T) {
	each(t, func(f *fixture) {
		f.must(f.rdb.Set(f.ctx, f.layout.Keys("broken").Room(), "no hash", 0).Err())
		f.lease("broken", "s1", f.rdb.Time(f.ctx).Val().Add(time.Hour))
		var done sync.WaitGroup
		for n := range 50 {
			m := message("", "1")
			broken := n%5 == 1
			if broken {
				m.RoomID = "broken"
			}
			done.Add(1)
			m.Done = func(r roomlog.Result) {
				defer done.Done()
				if (r.Err != nil) != broken || wire.CodeOf(r.Err) == wire.Unavailable {
					f.Errorf("message %d: %+v", n, r)
				}
			}
			f.pub.Publish(&m)
		}
		done.Wait()
		if r := f.read(1, 0); r.Last != 40 {
			f.Errorf("%d messages were appended, want 40", r.Last)
		}
	})
}

func TestAFullRedisRefusesWhatIsNewAndNothingElse(t *testing.T) {
	t.Parallel()
	f := newFixture(t, redistest.Client(t, redistest.Server(t).URL()))
	known, noSeat, noRoom := message("id", "1"), message("", "1"), message("", "1")
	noSeat.Session = "none"
	noRoom.RoomID, noRoom.Session = "nowhere", ""
	f.publish(known)
	f.must(f.rdb.ConfigSet(f.ctx, "maxmemory", "1").Err())
	by := time.Now().Add(10 * time.Millisecond) // in one run
	var done sync.WaitGroup
	for n, test := range []struct {
		m    roomlog.Message
		want func(roomlog.Result) bool
	}{
		{message("", "1"), func(r roomlog.Result) bool { return wire.CodeOf(r.Err) == wire.Unavailable }},
		{known, func(r roomlog.Result) bool { return r.Err == nil && r.Duplicate && r.Seq == 1 }},
		{noSeat, func(r roomlog.Result) bool { return errors.Is(r.Err, roomlog.ErrNoSeat) }},
		{noRoom, func(r roomlog.Result) bool { return wire.CodeOf(r.Err) == wire.RoomNotFound }},
		{message("new", "1"), func(r roomlog.Result) bool { return wire.CodeOf(r.Err) == wire.Unavailable }},
	} {
		test.m.MayWaitUntil = by
		done.Add(1)
		test.m.Done = func(r roomlog.Result) {
			defer done.Done()
			if !test.want(r) {
				f.Errorf("message %d: %+v", n, r)
			}
		}
		f.pub.Publish(&test.m)
	}
	done.Wait()
}

func TestAMessageWhoseCallerGaveUpIsNotAppendedLater(t *testing.T) {
	each(t, func(f *fixture) {
		ctx, cancel := context.WithCancel(f.ctx)
		cancel()
		if _, err := f.pub.PublishWait(ctx, message("", "1")); !errors.Is(err, context.Canceled) {
			f.Errorf("got %v", err)
		}
		if r := f.publish(message("", "2")); r.Seq != 1 {
			f.Errorf("%+v", r)
		}
	})
}

func TestThePublisherGoesOnAfterRedisForgotTheScript(t *testing.T) {
	each(t, func(f *fixture) {
		f.publish(message("", "1"))
		f.must(f.rdb.ScriptFlush(f.ctx).Err())
		if r := f.publish(message("", "1")); r.Seq != 2 {
			f.Fatalf("%+v", r)
		}
	})
}

func TestThePublisherSaysUnavailableInAnOutageAndGoesOnAfterIt(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t, "--appendonly", "yes", "--appendfsync", "always")
	f := newFixture(t, redistest.Client(t, server.URL()))
	f.publish(message("", "1"))
	server.Stop()
	if _, err := f.pub.PublishWait(f.ctx, message("id", "1")); wire.CodeOf(err) != wire.Unavailable {
		f.Fatal(err)
	}
	server.Start()
	f.eventually("a message is appended again", func() bool {
		r, err := f.pub.PublishWait(f.ctx, message("id", "1"))
		if err != nil && wire.CodeOf(err) != wire.Unavailable {
			f.Fatal(err)
		}
		return err == nil && r.Seq == 2
	})
}
