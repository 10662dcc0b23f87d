package redisstore_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
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

// cpu returns a function that reports the CPU time of this process and of Redis per operation
// since the call of cpu.
func cpu(b *testing.B, rdb *redis.Client) func() {
	b.Helper()
	client := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	server := func() (total time.Duration) {
		for line := range strings.Lines(rdb.Info(b.Context(), "cpu").Val()) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			if name == "used_cpu_sys" || name == "used_cpu_user" {
				s, _ := strconv.ParseFloat(value, 64)
				total += time.Duration(s * float64(time.Second))
			}
		}
		return total
	}
	client0, server0 := client(), server()
	return func() {
		b.ReportMetric(float64(client()-client0)/float64(b.N)/1000, "client-µs/op")
		b.ReportMetric(float64(server()-server0)/float64(b.N)/1000, "redis-µs/op")
	}
}

func benchStore(b *testing.B) (*redis.Client, *redisstore.Store, roomlog.Layout) {
	rdb := redistest.Client(b, redistest.Server(b).URL())
	layout := roomlog.Layout{Partitions: roomlog.DefaultPartitions}
	scripts := pipeline.New(rdb)
	b.Cleanup(scripts.Close)
	return rdb, redisstore.New(rdb, scripts, layout), layout
}

// The life of a seat: reserve, confirm and leave, in rooms of 8 that stay.
func BenchmarkReserveConfirmLeave(b *testing.B) {
	rdb, store, _ := benchStore(b)
	const rooms = 64
	for i := range rooms {
		_, err := store.Create(b.Context(), room.Spec{ID: fmt.Sprintf("r%d", i), Epoch: "e", Capacity: 64, Presence: room.PresenceFull, EmptyTimeout: time.Hour, DepartureTimeout: time.Hour})
		if err != nil {
			b.Fatal(err)
		}
	}
	var serial atomic.Int64
	b.SetParallelism(16)
	report := cpu(b, rdb)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n := serial.Add(1)
			id, user := fmt.Sprintf("r%d", n%rooms), fmt.Sprintf("u%d", n)
			p, err := store.Reserve(b.Context(), id, wire.Member{UserID: user}, user)
			if err != nil {
				b.Fatal(err)
			}
			if _, err = store.Confirm(b.Context(), room.Join{RoomID: id, Permit: secretOf(p), Session: user, Gateway: "g"}); err != nil {
				b.Fatal(err)
			}
			if err = store.Leave(b.Context(), id, user, wire.ReasonLeft, true); err != nil {
				b.Fatal(err)
			}
		}
	})
	report()
}

// Each script in the life of a seat, one call at a time: how long Redis takes for it.
func BenchmarkScript(b *testing.B) {
	type step func(b *testing.B, store *redisstore.Store, id, user string) error
	reserve := func(b *testing.B, store *redisstore.Store, id, user string) error {
		_, err := store.Reserve(b.Context(), id, wire.Member{UserID: user}, user)
		return err
	}
	confirm := func(b *testing.B, store *redisstore.Store, id, user string) error {
		_, err := store.Confirm(b.Context(), room.Join{RoomID: id, Permit: user, Session: user, Gateway: "g"})
		return err
	}
	renew := func(b *testing.B, store *redisstore.Store, id, user string) error {
		_, _, err := store.Renew(b.Context(), []room.SessionRef{{RoomID: id, Session: user}}, unsaid)
		return err
	}
	leave := func(b *testing.B, store *redisstore.Store, id, user string) error {
		return store.Leave(b.Context(), id, user, wire.ReasonLeft, true)
	}
	for _, script := range []struct {
		name   string
		before []step
		do     step
		after  []step
	}{
		{"reserve", nil, reserve, []step{confirm, leave}},
		{"confirm", []step{reserve}, confirm, []step{leave}},
		{"renew", []step{reserve, confirm}, renew, []step{leave}},
		{"leave", []step{reserve, confirm}, leave, nil},
	} {
		b.Run(script.name, func(b *testing.B) {
			rdb, store, _ := benchStore(b)
			const perRoom = 4
			users := make([][2]string, b.N)
			for i := range users {
				users[i] = [2]string{fmt.Sprintf("r%d", i/perRoom), fmt.Sprintf("u%d", i)}
			}
			each := func(steps ...step) {
				for _, do := range steps {
					for _, u := range users {
						if err := do(b, store, u[0], u[1]); err != nil {
							b.Fatal(err)
						}
					}
				}
			}
			for i := range (b.N + perRoom - 1) / perRoom {
				_, err := store.Create(b.Context(), room.Spec{ID: fmt.Sprintf("r%d", i), Epoch: "e", Capacity: perRoom, Presence: room.PresenceFull, EmptyTimeout: time.Hour, DepartureTimeout: time.Hour})
				if err != nil {
					b.Fatal(err)
				}
			}
			each(script.before...)
			report := cpu(b, rdb)
			b.ResetTimer()
			each(script.do)
			b.StopTimer()
			report()
			each(script.after...)
		})
	}
}

func occupy(b *testing.B, rdb *redis.Client, layout roomlog.Layout, rooms, sessions int, ends time.Time) []room.SessionRef {
	leases := make([]room.SessionRef, sessions)
	pipe := rdb.Pipeline()
	for i := range leases {
		leases[i] = room.SessionRef{RoomID: fmt.Sprintf("r%d", i%rooms), Session: fmt.Sprintf("session-%016d", i)}
		k, l, user := layout.Keys(leases[i].RoomID), leases[i], fmt.Sprintf("u%d", i)
		pipe.ZAdd(b.Context(), k.Leases(), redis.Z{Score: float64(ends.UnixMilli()), Member: roomlog.Lease(l.RoomID, l.Session)})
		pipe.HSet(b.Context(), k.Sessions(), l.Session, user+"\ng\n{\"userId\":\""+user+"\"}")
		pipe.HSet(b.Context(), k.Seats(), user, l.Session)
		if pipe.Len() > 10_000 {
			if _, err := pipe.Exec(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}
	if _, err := pipe.Exec(b.Context()); err != nil {
		b.Fatal(err)
	}
	return leases
}

// All leases of a full gateway, in rooms of 10 and of 10,000.
func BenchmarkRenew50000(b *testing.B) {
	for _, rooms := range []int{5000, 5} {
		b.Run(fmt.Sprintf("rooms=%d", rooms), func(b *testing.B) {
			rdb, store, layout := benchStore(b)
			leases := occupy(b, rdb, layout, rooms, 50_000, time.Now().Add(time.Hour))
			report := cpu(b, rdb)
			for b.Loop() {
				if lost, _, err := store.Renew(b.Context(), leases, unsaid); len(lost) > 0 || err != nil {
					b.Fatal(len(lost), err)
				}
			}
			report()
		})
	}
}

// Every lease of the largest room ends at once.
func BenchmarkExpire100000InOneRoom(b *testing.B) {
	rdb, store, layout := benchStore(b)
	for b.Loop() {
		b.StopTimer()
		_, err := store.Create(b.Context(), room.Spec{ID: "r0", Epoch: "e", Capacity: wire.MaxCapacity, Presence: room.PresenceCount, EmptyTimeout: time.Hour})
		if err != nil {
			b.Fatal(err)
		}
		occupy(b, rdb, layout, 1, wire.MaxCapacity, time.Now().Add(-time.Second))
		b.StartTimer()
		for freed := 0; freed < wire.MaxCapacity; {
			due, _, err := store.Due(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			n, err := store.Expire(b.Context(), due)
			if n == 0 || err != nil {
				b.Fatal(n, err)
			}
			freed += n
		}
		b.StopTimer()
		if err := store.Delete(b.Context(), "r0", ""); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
