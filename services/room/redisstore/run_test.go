package redisstore_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/room"
)

// together calls do for many rooms at once, so that the calls share runs of their script.
func (f *fixture) together(rooms []string, do func(id string) error) {
	f.Helper()
	var done sync.WaitGroup
	for _, id := range rooms {
		done.Go(func() {
			if err := do(id); err != nil {
				f.Errorf("%s: %v", id, err)
			}
		})
	}
	done.Wait()
}

func TestCallsThatShareARunChangeTheirOwnRooms(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		var rooms []string
		for i := range 30 {
			rooms = append(rooms, fmt.Sprintf("room%02d", i))
		}
		published := f.rdb.PSubscribe(f.ctx, "*:events")
		f.Cleanup(func() { _ = published.Close() })
		if _, err := published.Receive(f.ctx); err != nil {
			f.Fatal(err)
		}
		f.together(rooms, func(id string) error {
			_, err := f.store.Create(f.ctx, room.Spec{ID: id, Epoch: "e-" + id, Capacity: 3, Presence: room.PresenceFull, EmptyTimeout: time.Hour})
			return err
		})
		listed := func(key func(partition int) string) (ids []string) {
			for p := range f.layout.Partitions {
				ids = append(ids, f.rdb.ZRange(f.ctx, key(p), 0, -1).Val()...)
			}
			slices.Sort(ids)
			return ids
		}
		for _, key := range []func(int) string{roomlog.RoomsKey, roomlog.DueKey} {
			if ids := listed(key); !slices.Equal(ids, rooms) {
				f.Fatalf("in %s and so on stand %v", key(0), ids)
			}
		}

		secrets := make(map[string]string)
		var mu sync.Mutex
		f.together(rooms, func(id string) error {
			p, err := f.store.Reserve(f.ctx, id, wire.Member{UserID: "u " + id}, "s-"+id)
			mu.Lock()
			secrets[id] = secretOf(p)
			mu.Unlock()
			return err
		})
		for _, id := range rooms {
			if f.rdb.Exists(f.ctx, f.keys(id).Permit(secrets[id])).Val() != 1 {
				f.Errorf("%s has no permit of its own", id)
			}
		}
		f.together(rooms, func(id string) error {
			j, err := f.store.Confirm(f.ctx, room.Join{RoomID: id, Permit: secrets[id], Session: "su-" + id, Gateway: "g"})
			if err == nil && (j.Member.UserID != "u "+id || j.Room.Epoch != "e-"+id || len(j.Members) != 1) {
				err = fmt.Errorf("joined %+v", j)
			}
			return err
		})
		f.together(rooms, func(id string) error {
			_, err := f.store.Confirm(f.ctx, room.Join{RoomID: id, Member: wire.Member{UserID: "w " + id}, Session: "sw-" + id, Gateway: "g"})
			return err
		})
		f.together(rooms, func(id string) error { return f.store.Leave(f.ctx, id, "su-"+id, wire.ReasonLeft, true) })
		for _, id := range rooms { // the leases that are left end
			f.must(f.rdb.ZAdd(f.ctx, f.keys(id).Leases(), redis.Z{Score: 1, Member: roomlog.Lease(id, "sw-"+id)}).Err())
		}
		f.reap()
		if ids := listed(roomlog.RoomsKey); len(ids) > 0 {
			f.Errorf("%v are left", ids)
		}

		if f.Failed() {
			return // not all entries would arrive
		}
		frames := make(map[string][]string) // by room
		ctx, cancel := context.WithTimeout(f.ctx, patience)
		defer cancel()
		for range 4 * len(rooms) {
			m, err := published.ReceiveMessage(ctx)
			f.must(err)
			frames[m.Channel] = append(frames[m.Channel], m.Payload)
		}
		for _, id := range rooms {
			var got []string
			for _, payload := range frames[f.keys(id).Channel()] {
				_, text, _ := strings.Cut(payload, `"type":"`)
				kind, _, _ := strings.Cut(text, `"`)
				_, text, _ = strings.Cut(text, `"userId":"`)
				user, _, _ := strings.Cut(text, `"`)
				got = append(got, kind+" "+user)
			}
			want := []string{"MEMBER_JOINED u " + id, "MEMBER_JOINED w " + id, "MEMBER_LEFT u " + id, "MEMBER_LEFT w " + id}
			if !slices.Equal(got, want) {
				f.Errorf("on the channel of %s came %q", id, got)
			}
		}
	})
}
