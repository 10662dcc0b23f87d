package redisstore_test

import (
	"strings"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/room"
)

// publish appends a message of a session of "r", or of the application.
func (f *fixture) publish(session, id string) roomlog.Result {
	f.Helper()
	p := roomlog.NewPublisher(f.scripts, f.layout)
	m := roomlog.Message{RoomID: "r", User: wire.SystemUser, ID: id, Tail: wire.MessageTail([]byte(`{"userId":"system"}`), id, []byte(`1`))}
	if session != "" {
		m.Epoch, m.Session = "e1", session
	}
	r, err := p.PublishWait(f.ctx, m)
	f.must(err)
	return r
}

// The reply to the first call was lost, and the retry arrives when things have changed again.
func TestARepeatedRequestRemovesAndDeletesNothingMore(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(3)
		f.walkIn("a", "s1")
		f.walkIn("b", "s2")
		f.must(f.store.Remove(f.ctx, "r", "a", "q1"))
		f.counts(0, 1)
		f.walkIn("a", "s3")
		f.must(f.store.Remove(f.ctx, "r", "a", "q1"))
		f.counts(0, 2)
		f.must(f.store.Remove(f.ctx, "r", "b", "q1")) // another user
		f.counts(0, 1)
		f.must(f.store.Delete(f.ctx, "r", "q1"))
		f.must(f.store.Delete(f.ctx, "r", "q1")) // there is no such room any more
		f.must(f.store.Remove(f.ctx, "r", "a", "q1"))
		f.create(3)
		f.walkIn("c", "s4")
		f.must(f.store.Delete(f.ctx, "r", "q1"))
		f.counts(0, 1)
		f.must(f.store.Delete(f.ctx, "r", "q2"))
		f.refused(f.store.Delete(f.ctx, "r", "q3"), wire.RoomNotFound)
		f.refused(f.store.Delete(f.ctx, "r", "q3"), wire.RoomNotFound) // nothing was carried out
	})
}

func TestTheLastToLeaveTakesTheRoomAndEveryKeyOfIt(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(3)
		f.walkIn("a", "s1")
		f.walkIn("b", "s2")
		f.walkIn("b", "s3")
		f.must(f.store.Cancel(f.ctx, "r", f.reserve("b")))
		f.publish("s1", "id1")
		f.leave("s1")
		f.leave("s1")
		f.counts(0, 1)
		f.wantLog("1 +a =1", "2 +b =2", "3 MESSAGE", "4 -a LEFT =1")
		f.leave("s3")
		f.gone("r")
		f.leave("s3")
		f.gone("r")
	})
}

func TestAReservedSeatKeepsTheRoomThatItsLastMemberLeft(t *testing.T) {
	each(t, brief, func(f *fixture) {
		f.create(3)
		f.walkIn("a", "s1")
		f.reserve("b")
		f.leave("s1")
		f.eventually("the permit lapses and the room ends with it", func() bool { return f.reap() == 1 })
		f.gone("r")
	})
}

func TestARoomThatNobodyEntersLivesForItsEmptyTimeout(t *testing.T) {
	each(t, brief, func(f *fixture) {
		r := f.create(3, func(s *room.Spec) { s.EmptyTimeout = time.Second })
		f.must(f.store.Cancel(f.ctx, "r", f.reserve("a"))) // zero occupancy, but not entered
		f.eventually("the reaper ends the room", func() bool { f.reap(); return len(f.roomKeys("r")) == 0 })
		if lived := f.rdb.Time(f.ctx).Val().Sub(r.CreateTime); lived < time.Second {
			f.Fatalf("it lived %v", lived)
		}
		f.gone("r")
	})
}

func TestTheEndOfTheEmptyTimeoutIsSeenByAnyCall(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(3, func(s *room.Spec) { s.EmptyTimeout = time.Second })
		f.eventually("the room is not found", func() bool {
			_, err := f.store.Get(f.ctx, "r")
			return wire.CodeOf(err) == wire.RoomNotFound && err != nil
		})
		f.gone("r")
		f.create(3) // a new one may be made
	})
}

func TestAnEnteredRoomOutlivesItsLastSeatByItsDepartureTimeout(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(3, func(s *room.Spec) { s.DepartureTimeout = time.Second })
		f.walkIn("a", "s1")
		left := f.rdb.Time(f.ctx).Val() // taken before, because what follows may take any time
		f.leave("s1")
		f.counts(0, 0)
		f.eventually("the reaper ends the room", func() bool { f.reap(); return len(f.roomKeys("r")) == 0 })
		if lived := f.rdb.Time(f.ctx).Val().Sub(left); lived < 999*time.Millisecond {
			f.Fatalf("it lived %v", lived)
		}
		f.gone("r")
	})
}

func TestTheDepartureTimeoutBeginsAnewWithEachLastSeat(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(3, outlasting)
		vacant := func() string { return f.rdb.HGet(f.ctx, f.keys("r").Room(), "vacant").Val() }
		f.walkIn("a", "s1")
		f.leave("s1")
		first := vacant()
		f.walkIn("a", "s2")
		if first == "" || vacant() != "" {
			f.Fatalf("vacant since %q, and with a member since %q", first, vacant())
		}
		f.eventually("Redis' clock goes on", func() bool {
			return f.rdb.Time(f.ctx).Val().UnixMilli() > parseMs(f, first)
		})
		f.leave("s2")
		if second := parseMs(f, vacant()); second <= parseMs(f, first) {
			f.Fatalf("vacant since %d, then since %s", second, first)
		}
	})
}

func parseMs(f *fixture, s string) int64 {
	f.Helper()
	d, err := time.ParseDuration(s + "ms")
	f.must(err)
	return d.Milliseconds()
}

func TestRemoveFreesSeatAndPermitAndTellsTheSession(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(3, outlasting)
		f.walkIn("a", "s1")
		permit := f.reserve("a")
		next := f.events()
		f.must(f.store.Remove(f.ctx, "r", "a", ""))
		f.wantEvent(next(), roomlog.KindRemoved, "s1")
		f.counts(0, 0)
		f.wantLog("1 +a =1", "2 -a REMOVED =0")
		_, err := f.confirm(room.Join{Permit: permit, Session: "s2"})
		f.refused(err, wire.PermitExpired)
		f.must(f.store.Remove(f.ctx, "r", "a", ""))
		f.must(f.store.Remove(f.ctx, "r", "nobody", ""))
		f.wantLog("1 +a =1", "2 -a REMOVED =0")
		f.refused(f.store.Remove(f.ctx, "nowhere", "a", ""), wire.RoomNotFound)
	})
}

func TestALeaveTellsASessionThatHasNotEnded(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(3, outlasting)
		f.walkIn("a", "s1")
		f.walkIn("b", "s2")
		next := f.events()
		f.must(f.store.Leave(f.ctx, "r", "nobody", wire.ReasonLeft, false))
		f.must(f.store.Leave(f.ctx, "r", "s1", wire.ReasonLeft, true))
		f.must(f.store.Leave(f.ctx, "r", "s2", wire.ReasonLeft, false))
		for _, seq := range []int64{3, 4} {
			if e := next(); e.Kind != roomlog.KindLeft || e.Seq != seq {
				f.Fatalf("event %c seq %d, want %c seq %d", e.Kind, e.Seq, roomlog.KindLeft, seq)
			}
		}
		f.wantEvent(next(), roomlog.KindGivenUp, "s2")
	})
}

func TestRemovingTheLastMemberEndsTheRoom(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(3)
		f.walkIn("a", "s1")
		f.reserve("a")
		f.must(f.store.Remove(f.ctx, "r", "a", ""))
		f.gone("r")
	})
}

func TestDeleteTellsTheGatewaysAndDropsEveryKey(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(5)
		f.walkIn("a", "s1")
		f.reserve("a")
		f.reserve("b")
		f.publish("s1", "id1")
		next := f.events()
		f.must(f.store.Delete(f.ctx, "r", ""))
		f.wantEvent(next(), roomlog.KindDeleted, "")
		f.gone("r")
		f.refused(f.store.Delete(f.ctx, "r", ""), wire.RoomNotFound)
		f.leave("s1")
		f.gone("r")
	})
}

// Its answer may have been lost, and the room made only then.
func TestARepetitionOfACallThatFoundNoRoomLeavesANewOneAlone(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.refused(f.store.Delete(f.ctx, "r", "q"), wire.RoomNotFound)
		f.refused(f.store.Remove(f.ctx, "r", "a", "q"), wire.RoomNotFound)
		f.create(2)
		f.walkIn("a", "s1")
		f.refused(f.store.Delete(f.ctx, "r", "q"), wire.RoomNotFound)
		f.refused(f.store.Remove(f.ctx, "r", "a", "q"), wire.RoomNotFound)
		f.counts(0, 1)
		f.must(f.store.Remove(f.ctx, "r", "a", "another"))
		f.gone("r")
	})
}

func TestARoomThatExistsIsMadeAgainByTheSameRequestOnly(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		by := func(request, epoch string) (room.Room, error) {
			return f.store.Create(f.ctx, room.Spec{ID: "r", Epoch: epoch, Capacity: 2, Presence: room.PresenceFull, EmptyTimeout: time.Hour, RequestID: request})
		}
		first, err := by("q1", "e1")
		f.must(err)
		again, err := by("q1", "e2")
		f.must(err)
		if again != first || again.Epoch != "e1" {
			f.Fatalf("%+v, then %+v", first, again)
		}
		_, err = by("q2", "e2")
		f.refused(err, wire.RoomExists)
		_, err = by("", "e2")
		f.refused(err, wire.RoomExists)
	})
}

func TestANewRoomOfTheSameIDHasItsOwnEpochAndLog(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(2)
		f.walkIn("a", "s1")
		f.leave("s1")
		r := f.create(2, func(s *room.Spec) { s.Epoch = "e2" })
		if r.Epoch != "e2" || r.Seq != 0 {
			f.Fatalf("%+v", r)
		}
		f.walkIn("b", "s2")
		f.wantLog("1 +b =1")
	})
}

func TestWhatRedisForgotLateDoesNotHarmANewRoom(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(2)
		f.walkIn("a", "s1")
		f.walkIn("b", "s2")
		f.must(f.rdb.Del(f.ctx, f.keys("r").Room()).Err()) // lapsed before the other keys
		f.create(2)
		f.counts(0, 0)
		f.walkIn("c", "s3")
		f.wantLog("1 +c =1")
	})
}

func TestEveryKeyOfARoomLapsesByItself(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		check := func(after string) {
			f.Helper()
			keys := f.roomKeys("r")
			for _, key := range keys {
				if ttl := f.rdb.PTTL(f.ctx, key).Val(); ttl <= 0 || ttl > 26*time.Hour {
					f.Fatalf("after %s: %s lapses in %v", after, key, ttl)
				}
			}
			if len(keys) == 0 {
				f.Fatalf("after %s: no keys", after)
			}
		}
		f.create(5, counting, outlasting)
		check("create")
		f.publish("", "m0")
		check("a message before anybody entered")
		f.reserve("a")
		check("reserve")
		_, err := f.confirm(room.Join{Permit: f.reserve("a"), Session: "s1"})
		f.must(err)
		check("confirm")
		f.publish("s1", "m1")
		check("a message")
		f.walkIn("a", "s2")
		check("takeover")
		f.reserve("a")
		f.leave("s2")
		check("leave with a permit")
		f.must(f.store.Remove(f.ctx, "r", "a", ""))
		check("remove")
		f.walkIn("b", "s3")
		check("coming back to an empty room")
		for _, key := range f.roomKeys("r") {
			if !strings.Contains(key, "ids") {
				f.must(f.rdb.Expire(f.ctx, key, time.Minute).Err())
			}
		}
		f.lookNow()
		_, err = f.store.Expire(f.ctx, visits("r"))
		f.must(err)
		for _, key := range []string{f.keys("r").Room(), f.keys("r").Leases(), f.keys("r").Log(), f.keys("r").Seats(), f.keys("r").Sessions()} {
			if ttl := f.rdb.PTTL(f.ctx, key).Val(); ttl < time.Hour {
				f.Fatalf("the reaper left %s to lapse in %v", key, ttl)
			}
		}
	})
}

func TestASessionThatEndedDoesNotComeBackInTheNextRoomOfThatID(t *testing.T) {
	for name, end := range map[string]func(f *fixture){
		"left before it came": func(f *fixture) { f.leave("late") },
		"left":                func(f *fixture) { f.create(3); f.walkIn("ann", "late"); f.leave("late") },
		"the room deleted":    func(f *fixture) { f.create(3); f.walkIn("ann", "late"); f.must(f.store.Delete(f.ctx, "r", "")) },
	} {
		t.Run(name, func(t *testing.T) {
			each(t, room.DefaultRules(), func(f *fixture) {
				end(f)
				f.create(3)
				f.walkIn("ann", "live")
				_, err := f.confirm(room.Join{Member: wire.Member{UserID: "ann"}, Session: "late"})
				f.refused(err, wire.PermitExpired)
			})
		})
	}
}
