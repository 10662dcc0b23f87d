package redisstore_test

import (
	"fmt"
	"iter"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/redistest"
	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/room"
)

func dueNow(id string) redis.Z { return redis.Z{Score: 1, Member: id} }

func TestTheReaperCanVisitTwiceAndRoomsThatAreGone(t *testing.T) {
	each(t, brief, func(f *fixture) {
		f.create(2, outlasting)
		f.walkIn("a", "s1")
		f.reserve("b")
		var due []room.Visit
		freed := 0
		f.eventually("both seats lapse", func() bool {
			var err error
			due, _, err = f.store.Due(f.ctx)
			f.must(err)
			n, err := f.store.Expire(f.ctx, due)
			f.must(err)
			freed += n
			return freed == 2
		})
		n, err := f.store.Expire(f.ctx, append(due, visits("r", "r", "nowhere")...))
		if n != 0 || err != nil {
			f.Fatalf("freed %d more, %v", n, err)
		}
		f.counts(0, 0)
		f.wantLog("1 +a =1", "2 -a LOST =0")
		f.gone("nowhere")
	})
}

// nextVisit returns when "r" should be due, in ms: when it is to be looked through or a
// permit lapses, whichever is first.
func (f *fixture) nextVisit() float64 {
	f.Helper()
	next, err := f.rdb.HGet(f.ctx, f.keys("r").Room(), "look").Float64()
	f.must(err)
	for _, z := range f.rdb.ZRangeWithScores(f.ctx, f.keys("r").Permits(), 0, 0).Val() {
		next = min(next, z.Score)
	}
	return next
}

func TestARoomIsDueAgainWhenAPermitLapsesOrItIsToBeLookedThrough(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(2)
		f.walkIn("a", "s1")
		for range 2 {
			_, err := f.store.Expire(f.ctx, visits("r"))
			f.must(err)
			if due, want := f.rdb.ZScore(f.ctx, roomlog.DueKey(f.layout.Partition("r")), "r").Val(), f.nextVisit(); due != want || due == 0 {
				f.Fatalf("due at %.0f, not %.0f", due, want)
			}
			if rooms, _, err := f.store.Due(f.ctx); len(rooms) != 0 || err != nil {
				f.Fatalf("due now: %v %v", rooms, err)
			}
			f.reserve("b")
		}
	})
}

// lookNow makes "r" due to be looked through.
func (f *fixture) lookNow() { f.must(f.rdb.HSet(f.ctx, f.keys("r").Room(), "look", 1).Err()) }

func (f *fixture) dueAt(ms float64) {
	f.Helper()
	due := roomlog.DueKey(f.layout.Partition("r"))
	f.must(f.rdb.ZAdd(f.ctx, due, redis.Z{Score: ms, Member: "r"}).Err())
}

// wantsNoVisit asks for rooms that need a visit, and checks that "r" was put off.
func (f *fixture) wantsNoVisit() {
	f.Helper()
	rooms, more, err := f.store.Due(f.ctx)
	if len(rooms) != 0 || more || err != nil {
		f.Fatalf("%v want a visit, more %t, %v", rooms, more, err)
	}
	if due, want := f.rdb.ZScore(f.ctx, roomlog.DueKey(f.layout.Partition("r")), "r").Val(), f.nextVisit(); due != want {
		f.Fatalf("due at %.0f, not %.0f", due, want)
	}
}

func TestARoomWhoseHoldersAreAllAliveWantsAVisitNowAndThenOnly(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(3, outlasting)
		wants := func(what string) {
			f.Helper()
			f.dueAt(1)
			rooms, more, err := f.store.Due(f.ctx)
			if len(rooms) != 1 || rooms[0].RoomID != "r" || len(rooms[0].Ended) != 0 || more || err != nil {
				f.Fatalf("%s: %v want a visit, more %t, %v", what, rooms, more, err)
			}
		}
		f.walkIn("a", "s1")
		f.dueAt(1)
		f.wantsNoVisit()
		permit := f.reserve("b")
		f.dueAt(1)
		f.wantsNoVisit()
		f.lookNow()
		wants("it is time to look it through")
		f.reap()
		f.leave("s1")
		f.must(f.store.Cancel(f.ctx, "r", permit))
		wants("it is vacant")
	})
}

// Redis' clock was ahead when the room was made, and was then corrected.
func TestALookThatIsFarAheadIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	m := redistest.Embedded(t)
	f := newFixture(t, redistest.Client(t, "redis://"+m.Addr()), room.DefaultRules())
	now := f.rdb.Time(f.ctx).Val()
	m.SetTime(now.Add(24 * time.Hour))
	f.create(3, outlasting)
	m.SetTime(now)
	f.walkIn("a", "s1")
	f.must(f.rdb.Expire(f.ctx, f.keys("r").Sessions(), time.Minute).Err())
	f.dueAt(1)
	f.reap()
	if ttl := f.rdb.PTTL(f.ctx, f.keys("r").Sessions()).Val(); ttl < time.Hour {
		f.Fatalf("its sessions lapse in %v", ttl)
	}
	f.dueAt(1)
	f.wantsNoVisit()
}

// If somebody else has written a key, or a partition does not answer, the seats of other
// rooms must be freed all the same.
func TestAFaultInOneRoomStopsNoOther(t *testing.T) {
	each(t, brief, func(f *fixture) {
		f.create(2, outlasting)
		f.walkIn("a", "s1")
		p := f.layout.Partition("r")
		foreign := "foreign"
		for f.layout.Partition(foreign) != p {
			foreign += "-"
		}
		f.must(f.rdb.Set(f.ctx, f.keys(foreign).Permits(), "x", time.Minute).Err())
		f.must(f.rdb.ZAdd(f.ctx, roomlog.DueKey(p), dueNow(foreign)).Err())
		f.must(f.rdb.Set(f.ctx, roomlog.DueKey((p+1)%f.layout.Partitions), "x", time.Minute).Err())
		f.eventually("the seat is free", func() bool {
			rooms, _, err := f.store.Due(f.ctx)
			if err == nil {
				f.Fatalf("%v are due, and no error", rooms)
			}
			_, err = f.store.Expire(f.ctx, rooms)
			f.must(err)
			return f.rdb.HLen(f.ctx, f.keys("r").Sessions()).Val() == 0
		})
		f.wantLog("1 +a =1", "2 -a LOST =0")
	})
}

func TestAPartitionTellsThatMoreOfItsRoomsMayBeDue(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		due := roomlog.DueKey(0)
		for i := range 150 {
			f.must(f.rdb.ZAdd(f.ctx, due, dueNow(strconv.Itoa(i))).Err())
		}
		for _, want := range []struct {
			rooms int
			more  bool
		}{{100, true}, {50, false}} {
			rooms, more, err := f.store.Due(f.ctx)
			if len(rooms) != want.rooms || more != want.more || err != nil {
				f.Fatalf("%d rooms, more %t, %v", len(rooms), more, err)
			}
			for _, visit := range rooms {
				f.must(f.rdb.ZRem(f.ctx, due, visit.RoomID).Err())
			}
		}
	})
}

// neighbour returns the id of a room in r's partition.
func (f *fixture) neighbour() string {
	id := "next"
	for f.layout.Partition(id) != f.layout.Partition("r") {
		id += "-"
	}
	return id
}

// endLease makes a lease that ended long ago, for a session that may or may not exist.
func (f *fixture) endLease(id, session string) {
	f.Helper()
	f.must(f.rdb.ZAdd(f.ctx, f.keys(id).Leases(), redis.Z{Score: 1, Member: roomlog.Lease(id, session)}).Err())
}

// There are too many to look at in each call. The reaper frees the seats, and until then no
// session that has lost its lease gets it back.
func TestOfManyLeasesThatEndTogetherNoneComesBack(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		const others = 700
		f.create(3, outlasting)
		f.create(wire.MaxCapacity, counting, outlasting, named(f.neighbour()))
		for session := range numbered(others) {
			_, err := f.confirm(room.Join{RoomID: f.neighbour(), Member: wire.Member{UserID: session}, Session: session})
			f.must(err)
		}
		for _, session := range []string{"s0", "s1", "s2"} {
			f.walkIn("u"+session, session)
		}
		for session := range numbered(others) {
			f.endLease(f.neighbour(), session)
		}
		f.endLease("r", "s1")
		f.endLease("r", "s2")
		lost, _, err := f.store.Renew(f.ctx, []room.SessionRef{{RoomID: "r", Session: "s0"}, {RoomID: "r", Session: "s1"}, {RoomID: f.neighbour(), Session: "1"}}, unsaid)
		f.must(err)
		slices.SortFunc(lost, func(a, b room.Lost) int { return a.Index - b.Index })
		if !slices.Equal(lost, []room.Lost{{Index: 1, Cause: room.LeaseEnded}, {Index: 2, Cause: room.LeaseEnded}}) {
			f.Fatalf("lost %+v", lost)
		}
		_, err = f.confirm(room.Join{RoomID: f.neighbour(), Member: wire.Member{UserID: "599"}, Session: "599"}) // a repeated call
		f.refused(err, wire.PermitExpired)
		f.eventually("the reaper frees all seats", func() bool {
			f.reap()
			return f.rdb.HLen(f.ctx, f.keys(f.neighbour()).Sessions()).Val() == 0
		})
		f.reap()
		f.counts(0, 1)
	})
}

func numbered(n int) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range n {
			if !yield(fmt.Sprint(i)) {
				return
			}
		}
	}
}

// The leases of a room that cannot be visited stay at the head of those that have ended.
func TestARoomThatCannotBeVisitedStopsNoneOfItsPartition(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(wire.MaxCapacity, counting, outlasting)
		f.create(1, outlasting, named(f.neighbour()))
		for session := range numbered(700) {
			f.walkIn(session, session)
		}
		_, err := f.confirm(room.Join{RoomID: f.neighbour(), Member: wire.Member{UserID: "a"}, Session: "s1"})
		f.must(err)
		f.must(f.rdb.Set(f.ctx, f.keys("r").Permits(), "x", time.Minute).Err())
		for session := range numbered(700) {
			f.endLease("r", session)
		}
		f.must(f.rdb.ZAdd(f.ctx, f.keys("r").Leases(), redis.Z{Score: 2, Member: roomlog.Lease(f.neighbour(), "s1")}).Err())
		if _, err := f.store.Reserve(f.ctx, f.neighbour(), wire.Member{UserID: "b"}, "b"); err != nil {
			f.Fatalf("a small room does not look at its own: %v", err)
		}
		_, err = f.confirm(room.Join{RoomID: f.neighbour(), Permit: "b", Session: "s2"})
		f.must(err)
		f.must(f.rdb.ZAdd(f.ctx, f.keys("r").Leases(), redis.Z{Score: 2, Member: roomlog.Lease(f.neighbour(), "s2")}).Err())
		due, _, err := f.store.Due(f.ctx)
		f.must(err)
		if freed, err := f.store.Expire(f.ctx, due); freed != 1 || err == nil {
			f.Fatalf("freed %d, %v", freed, err)
		}
	})
}

// No script leaves these behind, but somebody who deletes a key by hand does. Then the seat
// would be occupied for ever, or the room would be visited twice a second.
func TestSeatsWithoutALeaseAndLeasesWithoutASeatAreFound(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(2, outlasting)
		f.walkIn("a", "s1")
		f.endLease("r", "nobody's")
		f.endLease("nowhere", "s2")
		f.must(f.rdb.ZAdd(f.ctx, f.keys("r").Leases(), redis.Z{Score: 1, Member: "no name of ours"}, redis.Z{Score: 1, Member: "nor-this"}).Err())
		if freed := f.reap(); freed != 0 {
			f.Fatalf("freed %d", freed)
		}
		if n := f.rdb.ZCount(f.ctx, f.keys("r").Leases(), "-inf", "1").Val() + f.rdb.ZCount(f.ctx, f.keys("nowhere").Leases(), "-inf", "1").Val(); n != 0 {
			f.Fatalf("%d leases without a seat are left", n)
		}
		f.must(f.rdb.Del(f.ctx, f.keys("r").Leases()).Err())
		f.lookNow()
		f.dueAt(1)
		f.reap()
		f.counts(0, 0)
		f.wantLog("1 +a =1", "2 -a LOST =0")
	})
}

func TestTheReaperDropsEntriesPastTheirAge(t *testing.T) {
	t.Parallel()
	m := redistest.Embedded(t)
	f := newFixture(t, redistest.Client(t, "redis://"+m.Addr()), room.Rules{PermitTTL: time.Minute, Lease: 24 * time.Hour})
	now := f.rdb.Time(f.ctx).Val()
	m.SetTime(now)
	f.create(3)
	f.walkIn("a", "s1")
	m.SetTime(now.Add(5 * time.Minute))
	f.walkIn("b", "s2")
	m.SetTime(now.Add(wire.HistoryAge + time.Second))
	f.wantLog("2 +b =2") // entry 1 is too old to be read, but still there
	_, err := f.store.Expire(f.ctx, visits("r"))
	f.must(err)
	if n := f.rdb.XLen(f.ctx, f.keys("r").Log()).Val(); n != 1 {
		f.Fatalf("%d entries", n)
	}
	m.SetTime(now.Add(3 * wire.HistoryAge))
	_, err = f.store.Expire(f.ctx, visits("r"))
	f.must(err)
	f.walkIn("c", "s3")
	f.wantLog("3 +c =3") // seqs go on
}

func TestTheLogOfARoomInWhichNobodySitsIsDroppedByThen(t *testing.T) {
	t.Parallel()
	m := redistest.Embedded(t)
	f := newFixture(t, redistest.Client(t, "redis://"+m.Addr()), room.DefaultRules())
	now := f.rdb.Time(f.ctx).Val()
	m.SetTime(now)
	f.create(3, func(s *room.Spec) { s.DepartureTimeout = 24 * time.Hour })
	f.walkIn("a", "s1")
	f.publish("s1", "id1")
	f.leave("s1")
	// The reaper visits the room only when it is due, which is seldom.
	visits := 0
	for at := now; at.Before(now.Add(2 * wire.HistoryAge)); at = at.Add(time.Second) {
		m.SetTime(at)
		rooms, _, err := f.store.Due(f.ctx)
		f.must(err)
		visits += len(rooms)
		_, err = f.store.Expire(f.ctx, rooms)
		f.must(err)
	}
	if n := f.rdb.XLen(f.ctx, f.keys("r").Log()).Val(); n != 0 || visits > 5 {
		f.Fatalf("%d entries are left after %d visits", n, visits)
	}
	f.counts(0, 0) // the room is kept
}
