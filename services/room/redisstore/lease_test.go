package redisstore_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/room"
)

// unsaid is the sent time of a renewal that does not say when it was sent.
var unsaid time.Time

func TestALeaseThatEndsFreesTheSeatWithLostThroughTheReaper(t *testing.T) {
	each(t, brief, func(f *fixture) {
		f.create(2, outlasting)
		f.walkIn("a", "s1")
		f.eventually("the reaper frees the seat", func() bool { return f.reap() == 1 })
		f.counts(0, 0)
		f.wantLog("1 +a =1", "2 -a LOST =0")
	})
}

func TestALeaseThatEndsFreesTheSeatForAnyOtherCall(t *testing.T) {
	each(t, brief, func(f *fixture) {
		f.create(1, outlasting)
		f.walkIn("a", "s1")
		f.eventually("another user gets the seat", func() bool {
			_, err := f.store.Reserve(f.ctx, "r", wire.Member{UserID: "b"}, "sb")
			return err == nil
		})
		f.wantLog("1 +a =1", "2 -a LOST =0")
	})
}

func TestTheRoomEndsWithItsLastLease(t *testing.T) {
	each(t, brief, func(f *fixture) {
		f.create(2)
		f.walkIn("a", "s1")
		f.eventually("the reaper ends the room", func() bool { return f.reap() == 1 })
		f.gone("r")
	})
}

func TestARenewedLeaseGoesOn(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(2)
		f.walkIn("a", "s1")
		ends := func() float64 { return f.leaseEnds("s1") }
		first := ends()
		f.eventually("a renewal moves the end", func() bool {
			lost, _, err := f.store.Renew(f.ctx, []room.SessionRef{{RoomID: "r", Session: "s1"}}, unsaid)
			f.must(err)
			if len(lost) > 0 {
				f.Fatalf("lost %+v", lost)
			}
			return ends() > first
		})
	})
}

func TestALeaseThatEndedStaysEndedThoughNobodyFreedTheSeatYet(t *testing.T) {
	each(t, brief, func(f *fixture) {
		f.create(2, outlasting)
		f.walkIn("a", "s1")
		f.eventually("the lease ends", func() bool {
			return f.rdb.Time(f.ctx).Val().UnixMilli() > int64(f.leaseEnds("s1"))
		})
		lost, _, err := f.store.Renew(f.ctx, []room.SessionRef{{RoomID: "r", Session: "s1"}}, unsaid)
		f.must(err)
		if !slices.Equal(lost, []room.Lost{{Index: 0, Cause: room.LeaseEnded}}) {
			f.Fatalf("lost %+v", lost)
		}
		f.counts(0, 0)
	})
}

func TestRenewTellsWhyASeatIsHeldNoMore(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(5, outlasting)
		f.walkIn("a", "s1")
		f.walkIn("a", "s2")
		f.walkIn("b", "s3")
		f.leave("s3")
		f.walkIn("d", "s4")
		f.must(f.store.Remove(f.ctx, "r", "d", ""))
		f.walkIn("d", "s5") // d has come again, but s4 was removed all the same
		f.walkIn("e", "s6")
		f.walkIn("e", "s7") // e leaves later, but s6 was replaced all the same
		f.leave("s7")
		f.create(5, named("last"))
		_, err := f.store.Confirm(f.ctx, room.Join{RoomID: "last", Session: "s8", Gateway: "g", Member: wire.Member{UserID: "f"}})
		f.must(err)
		f.must(f.store.Remove(f.ctx, "last", "f", "")) // the room goes with its last member
		lost, _, err := f.store.Renew(f.ctx, []room.SessionRef{
			{RoomID: "r", Session: "s1"},
			{RoomID: "r", Session: "s2"},
			{RoomID: "r", Session: "s3"},
			{RoomID: "r", Session: "never"},
			{RoomID: "r", Session: "s6"},
			{RoomID: "nowhere", Session: "s9"},
			{RoomID: "r", Session: "s4"},
			{RoomID: "last", Session: "s8"},
		}, unsaid)
		f.must(err)
		want := []room.Lost{{Index: 0, Cause: room.Replaced}, {Index: 2, Cause: room.LeaseEnded}, {Index: 3, Cause: room.LeaseEnded}, {Index: 4, Cause: room.Replaced}, {Index: 5, Cause: room.RoomGone},
			{Index: 6, Cause: room.Removed}, {Index: 7, Cause: room.Removed}}
		slices.SortFunc(lost, func(a, b room.Lost) int { return a.Index - b.Index })
		if !slices.Equal(lost, want) {
			f.Fatalf("lost %+v; want %+v", lost, want)
		}
	})
}

func TestABrokenRoomFailsNobodyElsesRenewal(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(4)
		f.walkIn("u", "s")
		f.must(f.rdb.Set(f.ctx, f.keys("broken").Room(), "no hash", 0).Err())
		lost, _, err := f.store.Renew(f.ctx, []room.SessionRef{{RoomID: "broken", Session: "b"}, {RoomID: "r", Session: "s"}}, unsaid)
		f.must(err)
		if want := []room.Lost{{Index: 0, Cause: room.LeaseEnded}}; !slices.Equal(lost, want) {
			f.Errorf("lost %v, want %v", lost, want)
		}
	})
}

func TestRenewTakesThousandsOfSessionsOverAllPartitions(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		const rooms, sessions = 9, 3000
		for i := range rooms {
			f.create(wire.MaxCapacity, counting, named(fmt.Sprintf("room%d", i)))
		}
		// Room 0 has more sessions than one call of the script renews. The leases are written
		// directly to Redis, because joins are not what is tested here.
		leases := make([]room.SessionRef, sessions)
		ends := float64(f.rdb.Time(f.ctx).Val().Add(10 * time.Second).UnixMilli())
		pipe := f.rdb.Pipeline()
		for i := range leases {
			leases[i] = room.SessionRef{RoomID: fmt.Sprintf("room%d", max(0, i%(2*rooms)-rooms)), Session: fmt.Sprintf("s%d", i)}
			if i%1000 != 7 {
				pipe.ZAdd(f.ctx, f.keys(leases[i].RoomID).Leases(), redis.Z{Score: ends, Member: roomlog.Lease(leases[i].RoomID, leases[i].Session)})
			}
		}
		_, err := pipe.Exec(f.ctx)
		f.must(err)
		for range 2 { // twice in a row, usually in the same ms, which must not lose anything
			lost, _, err := f.store.Renew(f.ctx, leases, unsaid)
			f.must(err)
			var missing []int
			for _, l := range lost {
				missing = append(missing, l.Index)
			}
			slices.Sort(missing)
			if !slices.Equal(missing, []int{7, 1007, 2007}) {
				f.Fatalf("lost %v", missing)
			}
		}
		for _, l := range leases {
			if score := f.rdb.ZScore(f.ctx, f.keys(l.RoomID).Leases(), roomlog.Lease(l.RoomID, l.Session)).Val(); score != 0 && score <= ends {
				f.Fatalf("%+v was not renewed", l)
			}
		}
	})
}

func TestARenewalThatWasHeldUpEndsAsIfItHadComeInTime(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(2)
		f.walkIn("a", "s1")
		now, err := f.rdb.Time(f.ctx).Result()
		f.must(err)
		for _, c := range []struct{ sent, ends, want, sooner time.Duration }{
			{-10 * time.Second, 2 * time.Second, 6 * time.Second, 9 * time.Second},
			{-10 * time.Second, 9 * time.Second, 9 * time.Second, 9 * time.Second}, // ends no earlier than without the renewal
			{-time.Hour, 5 * time.Second, 5 * time.Second, time.Hour - time.Second},
		} {
			at := func(d time.Duration) float64 { return float64(now.Add(d).UnixMilli()) }
			f.must(f.rdb.ZAdd(f.ctx, f.keys("r").Leases(), redis.Z{Score: at(c.ends), Member: roomlog.Lease("r", "s1")}).Err())
			lost, sooner, err := f.store.Renew(f.ctx, []room.SessionRef{{RoomID: "r", Session: "s1"}}, now.Add(c.sent))
			if ends := f.leaseEnds("s1"); len(lost) > 0 || err != nil || ends != at(c.want) || sooner < c.sooner || sooner > c.sooner+patience {
				f.Fatalf("sent %v ago: ends at %.0f, not %.0f; %v sooner; lost %v, %v", -c.sent, ends, at(c.want), sooner, lost, err)
			}
		}
	})
}

func TestRenewingNothingIsNoError(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		if lost, _, err := f.store.Renew(f.ctx, nil, unsaid); len(lost) != 0 || err != nil {
			f.Fatal(lost, err)
		}
	})
}
