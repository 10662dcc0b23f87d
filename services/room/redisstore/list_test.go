package redisstore_test

import (
	"encoding/base64"
	"fmt"
	"slices"
	"testing"

	"github.com/anteroom-chat/anteroom/pkg/redistest"
	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/room"
)

// listed reads all pages.
func (f *fixture) listed(size int) []room.Room {
	f.Helper()
	var all []room.Room
	for token := ""; ; {
		page, next, err := f.store.List(f.ctx, size, token)
		f.must(err)
		if len(page) > size || next != "" && len(page) < size {
			f.Fatalf("a page of %d rooms where %d were asked for, next %q", len(page), size, next)
		}
		all = append(all, page...)
		if next == "" {
			return all
		}
		token = next
	}
}

func TestListGivesEveryRoomOnceNewestFirst(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		var want []room.Room
		for i := range 23 {
			want = append(want, f.create(i+1, named(fmt.Sprintf("room-%d", i))))
		}
		slices.Reverse(want) // many of them were made in the same millisecond
		for _, size := range []int{1, 2, 5, 22, 23, 24, 100} {
			if got := f.listed(size); !slices.Equal(got, want) {
				f.Fatalf("by %d:\n%v\nwant\n%v", size, got, want)
			}
		}
	})
}

func TestListLosesNoRoomOfManyMadeAtTheSameTime(t *testing.T) {
	t.Parallel()
	m := redistest.Embedded(t)
	f := newFixture(t, redistest.Client(t, "redis://"+m.Addr()), room.DefaultRules())
	m.SetTime(f.rdb.Time(f.ctx).Val())
	for i := range 40 {
		f.create(1, named(fmt.Sprintf("room-%d", i)))
	}
	for _, size := range []int{1, 3, 7, 40} {
		ids := make(map[string]bool)
		for _, r := range f.listed(size) {
			ids[r.ID] = true
		}
		if len(ids) != 40 {
			f.Fatalf("by %d: %d rooms", size, len(ids))
		}
	}
}

func TestListIsEmptyWithoutRooms(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		rooms, next, err := f.store.List(f.ctx, 20, "")
		if len(rooms) != 0 || next != "" || err != nil {
			f.Fatalf("%v %q %v", rooms, next, err)
		}
	})
}

func TestListLeavesOutWhatEndedMeanwhile(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		f.create(1)
		f.create(1, named("stays"))
		f.must(f.rdb.Del(f.ctx, f.keys("r").Room()).Err()) // ended, but still in the index
		rooms, next, err := f.store.List(f.ctx, 20, "")
		if len(rooms) != 1 || rooms[0].ID != "stays" || next != "" || err != nil {
			f.Fatalf("%v %q %v", rooms, next, err)
		}
		f.must(f.rdb.ZAdd(f.ctx, roomlog.DueKey(f.layout.Partition("r")), dueNow("r")).Err())
		f.reap()
		f.gone("r") // the reaper removes it from the index
	})
}

func TestAPageTokenThatWasNotGivenOutIsRefused(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		encode := base64.RawURLEncoding.EncodeToString
		for _, token := range []string{"!", "YQ", encode([]byte("1")), encode([]byte("x.y")), encode([]byte("1.a b")), encode([]byte("1.")), encode([]byte(".a"))} {
			_, _, err := f.store.List(f.ctx, 20, token)
			f.refused(err, wire.BadRequest)
		}
	})
}
