package redisstore_test

import (
	"slices"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/room"
)

func TestAPermitIsConfirmedOnce(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(2)
		permit := f.reserve("a")
		joined, err := f.confirm(room.Join{Permit: permit, Session: "s1"})
		f.must(err)
		want := wire.Member{UserID: "a", Nickname: "Na"}
		if joined.Member != want || !slices.Equal(joined.Members, []wire.Member{want}) || joined.Room.Seq != 1 {
			f.Fatalf("%+v", joined)
		}
		f.counts(0, 1)
		_, err = f.confirm(room.Join{Permit: permit, Session: "s2"})
		f.refused(err, wire.PermitExpired)
		f.counts(0, 1)
	})
}

func TestTheNicknameOfTheJoinComesBeforeThatOfThePermit(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(2)
		nick := `"}],"\n` + "é☃</"
		joined, err := f.confirm(room.Join{Permit: f.reserve("a"), Session: "s1", Member: wire.Member{UserID: "a", Nickname: nick}})
		f.must(err)
		if joined.Member.Nickname != nick || f.log()[0].Member.Nickname != nick {
			f.Fatalf("%+v, %+v", joined.Member, f.log()[0].Member)
		}
	})
}

func TestTheNicknameOfAPermitIsTheLastThatItWasReservedWith(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(2)
		permit := f.reserve("a")
		for _, nick := range []string{"", "new", ""} {
			p, err := f.store.Reserve(f.ctx, "r", wire.Member{UserID: "a", Nickname: nick}, "another")
			f.must(err)
			if secretOf(p) != permit {
				f.Fatal("not the same permit")
			}
		}
		joined, err := f.confirm(room.Join{Permit: permit, Session: "s1", Member: wire.Member{UserID: "a"}})
		f.must(err)
		if joined.Member.Nickname != "new" {
			f.Errorf("nickname is %q", joined.Member.Nickname)
		}
	})
}

func TestAPermitThatIsMadeUpOrOfAnotherRoomOrUserIsRefused(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(3)
		f.create(3, named("other"))
		permit := f.reserve("a")
		_, err := f.confirm(room.Join{Permit: "made-up", Session: "s1"})
		f.refused(err, wire.PermitExpired)
		_, err = f.confirm(room.Join{RoomID: "other", Permit: permit, Session: "s1"})
		f.refused(err, wire.PermitExpired)
		_, err = f.confirm(room.Join{Permit: permit, Session: "s1", Member: wire.Member{UserID: "b"}})
		f.refused(err, wire.Forbidden)
		_, err = f.confirm(room.Join{RoomID: "nowhere", Permit: permit, Session: "s1"})
		f.refused(err, wire.RoomNotFound)
		f.counts(1, 0) // and still good for its user
		_, err = f.confirm(room.Join{Permit: permit, Session: "s1", Member: wire.Member{UserID: "a"}})
		f.must(err)
	})
}

func TestAWalkInTakesTheOwnSeatOrAFreeOne(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(2)
		permit := f.reserve("a")
		joined, err := f.confirm(room.Join{Member: wire.Member{UserID: "a"}, Session: "s1"}) // takes the reserved seat
		f.must(err)
		if joined.Member.Nickname != "Na" {
			f.Errorf("the permit's nickname is lost: %+v", joined.Member)
		}
		f.counts(0, 1)
		_, err = f.confirm(room.Join{Permit: permit, Session: "s9"})
		f.refused(err, wire.PermitExpired) // the walk-in has used it up
		f.walkIn("b", "s2")                // takes a free seat
		f.counts(0, 2)
		_, err = f.confirm(room.Join{Member: wire.Member{UserID: "c"}, Session: "s3"})
		f.refused(err, wire.RoomFull)
		f.walkIn("a", "s4") // takes the user's own seat over
		f.counts(0, 2)
	})
}

func TestOwnSeatOnlyTakesNoFreeSeat(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(3)
		own := func(user, session string) error {
			_, err := f.confirm(room.Join{Member: wire.Member{UserID: user}, Session: session, OwnSeatOnly: true})
			return err
		}
		f.refused(own("a", "s1"), wire.Forbidden)
		f.reserve("a")
		f.must(own("a", "s1"))
		f.must(own("a", "s2"))
		f.counts(0, 1)
	})
}

// The call was held up, and meanwhile its user joined with another session.
func TestAConfirmationThatComesTooLateChangesNothing(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(3)
		permit := f.reserve("b")
		f.walkIn("a", "newer")
		now, err := f.rdb.Time(f.ctx).Result()
		f.must(err)
		for _, j := range []room.Join{
			{Member: wire.Member{UserID: "a"}, Session: "older"},
			{Permit: permit, Session: "older"},
			{Member: wire.Member{UserID: "c"}, Session: "older"},
			{Member: wire.Member{UserID: "a"}, Session: "newer"}, // its lease is not renewed either
			{RoomID: "nowhere", Member: wire.Member{UserID: "a"}, Session: "older"},
		} {
			j.Deadline = now
			_, err = f.confirm(j)
			f.refused(err, wire.Unavailable)
		}
		f.counts(1, 1)
		f.wantLog("1 +a =1")
		_, err = f.confirm(room.Join{Permit: permit, Session: "in time", Deadline: now.Add(time.Minute)})
		f.must(err)
	})
}

func TestATakeoverKeepsTheSeatOccupiedAndTellsTheOldSession(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(1)
		_, err := f.confirm(room.Join{Session: "s1", Member: wire.Member{UserID: "a", Nickname: "old"}})
		f.must(err)
		next := f.events()
		joined, err := f.confirm(room.Join{Session: "s2", Gateway: "g2", Member: wire.Member{UserID: "a", Nickname: "new"}})
		f.must(err)
		f.wantEvent(next(), roomlog.KindReplaced, "s1")
		if joined.Room.Occupied != 1 || joined.Room.Seq != 1 || joined.Member.Nickname != "old" || len(joined.Members) != 1 {
			f.Fatalf("%+v", joined)
		}
		f.wantLog("1 +a =1") // neither a leave nor a join
	})
}

func TestAReplacedSessionChangesNothing(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(1)
		f.walkIn("a", "s1")
		f.walkIn("a", "s2")
		f.leave("s1")
		f.counts(0, 1)
		lost, _, err := f.store.Renew(f.ctx, []room.SessionRef{{RoomID: "r", Session: "s1"}, {RoomID: "r", Session: "s2"}}, unsaid)
		f.must(err)
		if !slices.Equal(lost, []room.Lost{{Index: 0, Cause: room.Replaced}}) {
			f.Fatalf("lost %+v", lost)
		}
		_, err = f.confirm(room.Join{Member: wire.Member{UserID: "a"}, Session: "s1"}) // a delayed call
		f.refused(err, wire.PermitExpired)
		f.wantLog("1 +a =1")
		if holder := f.rdb.HGet(f.ctx, f.keys("r").Seats(), "a").Val(); holder != "s2" {
			f.Fatalf("the seat is held by %q", holder)
		}
	})
}

func TestConfirmIsIdempotentBySession(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(2)
		join := room.Join{Permit: f.reserve("a"), Session: "s1"}
		first, err := f.confirm(join)
		f.must(err)
		f.walkIn("b", "s2")
		again, err := f.confirm(join) // the reply to the first call was lost
		f.must(err)
		if again.Member != first.Member || again.Room.Seq != 2 || !slices.Equal(users(again.Members), []string{"a", "b"}) {
			f.Fatalf("%+v, then %+v", first, again)
		}
		f.counts(0, 2)
		f.wantLog("1 +a =1", "2 +b =2")
		_, err = f.confirm(room.Join{Member: wire.Member{UserID: "b"}, Session: "s1"})
		f.refused(err, wire.Forbidden) // not b's session
		_, err = f.confirm(room.Join{Permit: f.reserve("b"), Session: "s1"})
		f.refused(err, wire.Forbidden) // not with b's permit either
	})
}

// The caller counts the lease from when it sent the call that was answered, which is the
// repeated one.
func TestARepeatedConfirmRenewsTheLease(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(2)
		f.walkIn("a", "s1")
		ends := func() float64 { return f.leaseEnds("s1") }
		first := ends()
		f.eventually("a repeated call moves the end", func() bool {
			f.walkIn("a", "s1")
			return ends() > first
		})
	})
}

func TestASessionThatEndedIsNeverConfirmedAgain(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(2, outlasting)
		join := room.Join{Permit: f.reserve("a"), Session: "s1"}
		_, err := f.confirm(join)
		f.must(err)
		f.leave("s1")
		_, err = f.confirm(join)
		f.refused(err, wire.PermitExpired)
		_, err = f.confirm(room.Join{Member: wire.Member{UserID: "a"}, Session: "s1"})
		f.refused(err, wire.PermitExpired)
		f.leave("s2") // overtakes its confirm
		_, err = f.confirm(room.Join{Member: wire.Member{UserID: "a"}, Session: "s2"})
		f.refused(err, wire.PermitExpired)
		f.counts(0, 0)
	})
}

func TestCountPresenceKeepsJoinsAndLeavesOutOfTheLog(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(5, counting, outlasting)
		next := f.events()
		joined := f.walkIn("a", "s1")
		if joined.Members != nil || joined.Member.UserID != "a" || joined.Room.Occupied != 1 {
			f.Fatalf("%+v", joined)
		}
		f.wantEvent(next(), roomlog.KindOccupancy, "1")
		f.walkIn("b", "s2")
		f.wantEvent(next(), roomlog.KindOccupancy, "2")
		f.leave("s1")
		f.wantEvent(next(), roomlog.KindOccupancy, "1")
		if frames := f.log(); len(frames) != 0 {
			f.Fatalf("log: %s", lines(frames))
		}
	})
}
