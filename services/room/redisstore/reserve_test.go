package redisstore_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/room"
)

func TestConcurrentReserversGetExactlyTheCapacity(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		const capacity, reservers = 8, 120
		f.create(capacity)
		var got, full atomic.Int64
		var all sync.WaitGroup
		for i := range reservers {
			all.Go(func() {
				user := fmt.Sprintf("u%d", i)
				_, err := f.store.Reserve(f.ctx, "r", wire.Member{UserID: user}, "s"+user)
				switch wire.CodeOf(err) {
				case wire.RoomFull:
					full.Add(1)
				default:
					if err != nil {
						f.Error(err)
					}
					got.Add(1)
				}
			})
		}
		all.Wait()
		if got.Load() != capacity || full.Load() != reservers-capacity {
			f.Fatalf("%d seats given, %d refused", got.Load(), full.Load())
		}
		f.counts(capacity, 0)
	})
}

func TestReservingTwiceProlongsThePermitOfTheSameSeat(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(1)
		first, err := f.store.Reserve(f.ctx, "r", wire.Member{UserID: "a"}, "one")
		f.must(err)
		f.eventually("Redis' clock goes on", func() bool { return f.rdb.Time(f.ctx).Val().Sub(first.ExpireTime) > -15*time.Second })
		second, err := f.store.Reserve(f.ctx, "r", wire.Member{UserID: "a"}, "two")
		f.must(err)
		if second.Token != first.Token || second.ExpireTime.Before(first.ExpireTime) || second.TTL != wire.PermitTTL {
			f.Fatalf("%+v, then %+v", first, second)
		}
		f.counts(1, 0)
		if ttl := f.rdb.PTTL(f.ctx, f.keys("r").Permit("one")).Val(); ttl <= 0 || ttl > wire.PermitTTL {
			f.Fatalf("the permit's key lapses in %v", ttl)
		}
	})
}

func TestAMemberWhoReservesGetsAPermitForTheOwnSeat(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(1)
		f.walkIn("a", "s1")
		permit := f.reserve("a")
		f.counts(0, 1)
		joined, err := f.confirm(room.Join{Permit: permit, Session: "s2"})
		f.must(err)
		if joined.Member.UserID != "a" {
			f.Fatalf("joined as %+v", joined.Member)
		}
		f.counts(0, 1)
	})
}

func TestAPermitLapsesByItself(t *testing.T) {
	each(t, brief, func(f *fixture) {
		f.create(1)
		permit := f.reserve("a")
		f.eventually("nothing is reserved", func() bool {
			r, err := f.store.Get(f.ctx, "r")
			f.must(err)
			return r.Reserved == 0
		})
		for _, key := range []string{f.keys("r").Permit(permit), f.keys("r").Permits(), f.keys("r").Tokens()} {
			if f.rdb.Exists(f.ctx, key).Val() != 0 {
				f.Fatalf("%s is left", key)
			}
		}
		_, err := f.confirm(room.Join{Permit: permit, Session: "s1"})
		f.refused(err, wire.PermitExpired)
		f.reserve("b") // the seat is free again
	})
}

func TestALapsedPermitIsForgottenByTheReaperAlone(t *testing.T) {
	each(t, brief, func(f *fixture) {
		f.create(1)
		permit := f.reserve("a")
		f.eventually("the reaper frees the seat", func() bool { return f.reap() == 1 })
		if n := f.rdb.Exists(f.ctx, f.keys("r").Permits(), f.keys("r").Permit(permit), f.keys("r").Tokens()).Val(); n != 0 {
			f.Fatalf("%d keys of the permit are left", n)
		}
		f.counts(0, 0)
	})
}

func TestCancelGivesTheSeatBackAndCanBeRepeated(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(1)
		permit := f.reserve("a")
		f.must(f.store.Cancel(f.ctx, "r", permit))
		f.counts(0, 0)
		other := f.reserve("b")
		f.must(f.store.Cancel(f.ctx, "r", permit))
		f.must(f.store.Cancel(f.ctx, "r", "made-up"))
		f.must(f.store.Cancel(f.ctx, "nowhere", other))
		f.counts(1, 0)
		_, err := f.confirm(room.Join{Permit: permit, Session: "s1"})
		f.refused(err, wire.PermitExpired)
	})
}

func TestCancelOfAMembersPermitLeavesTheSeatOccupied(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(1)
		f.walkIn("a", "s1")
		f.must(f.store.Cancel(f.ctx, "r", f.reserve("a")))
		f.counts(0, 1)
		f.leave("s1")
		f.gone("r")
	})
}

func TestASeatLeftWhileItsUserHoldsAPermitIsReserved(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(1)
		f.walkIn("a", "s1")
		permit := f.reserve("a")
		f.leave("s1")
		f.counts(1, 0)
		_, err := f.store.Reserve(f.ctx, "r", wire.Member{UserID: "b"}, "sb")
		f.refused(err, wire.RoomFull)
		_, err = f.confirm(room.Join{Permit: permit, Session: "s2"})
		f.must(err)
		f.counts(0, 1)
		f.wantLog("1 +a =1", "2 -a LEFT =0", "3 +a =1")
	})
}

func TestReservingInNoRoomIsNotFound(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		_, err := f.store.Reserve(f.ctx, "r", wire.Member{UserID: "a"}, "s")
		f.refused(err, wire.RoomNotFound)
		f.gone("r")
	})
}

func TestCapacityHoldsUpToTheLargestRoom(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		if r := f.create(wire.MaxCapacity, counting); r.Capacity != wire.MaxCapacity {
			f.Fatalf("%+v", r)
		}
		f.reserve("a")
		f.counts(1, 0)
	})
}
