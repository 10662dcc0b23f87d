package gateway

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

func TestMessagesWaitForOthersWhileTheirRoomRests(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		var m *member
		for range int(hotRest / hotWrite) {
			m = st.join()
		}
		patience := func(want time.Duration) {
			t.Helper()
			got := time.Duration(0)
			if by := m.mayWaitUntil(st.shard.hub.clock()); !by.IsZero() {
				got = time.Until(by)
			}
			if got != want {
				t.Fatalf("a message waits %v, want %v", got, want)
			}
		}
		time.Sleep(hotRest)
		patience(0)
		st.publish(st.appendMany(hotBatch)...)
		st.step()
		patience(mostPatience)
		time.Sleep(hotRest - time.Millisecond)
		patience(time.Millisecond)
		time.Sleep(time.Millisecond)
		patience(0)
	})
}

// The second counts from when an OCCUPANCY was sent, which a resting room does later.
func TestOccupancyOfARoomThatRestsComesAtMostOnceASecond(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		st.set(func() { st.occupied = 1 })
		var members []*member
		for range int(hotRest / hotWrite) {
			m := st.counting()
			st.joined(m)
			members = append(members, m)
		}
		came := func(want int) {
			t.Helper()
			st.step()
			got := 0
			for _, f := range members[0].tape.frames() {
				if strings.Contains(f, wire.TypeOccupancy) {
					got++
				}
			}
			if got != want {
				t.Fatalf("%d OCCUPANCY came, want %d", got, want)
			}
		}
		occupied := func(n int) {
			st.publish(roomlog.Event{Kind: roomlog.KindOccupancy, Epoch: "E1", Data: []byte(fmt.Sprint(n))})
			st.step()
		}
		time.Sleep(2 * occupancyRate)
		st.publish(st.appendMany(hotBatch)...)
		st.step()
		occupied(2)
		time.Sleep(hotRest - time.Nanosecond)
		came(0)
		time.Sleep(time.Nanosecond)
		came(1)
		occupied(3)
		time.Sleep(occupancyRate - time.Nanosecond)
		came(1)
		time.Sleep(time.Nanosecond)
		came(2)
	})
}

func TestRoomsRestTheLongerTheHotterTheyAre(t *testing.T) {
	for _, c := range []struct {
		name             string
		members, entries int
		want             time.Duration
	}{
		{"few members", manyMembers - 1, 100, 0},
		{"one entry for many", 40, 1, 1200 * time.Microsecond},
		{"one entry for a thousand", 1000, 1, busyRest},
		{"hot", 40, hotBatch, 6 * time.Millisecond},
		{"hot, for a thousand", 1000, 100, hotRest},
	} {
		if got := restAfter(c.members, c.entries); got != c.want {
			t.Errorf("%s: rests for %v, not %v", c.name, got, c.want)
		}
	}
}
