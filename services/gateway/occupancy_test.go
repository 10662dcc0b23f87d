package gateway

import (
	"fmt"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

func TestOccupancyOfAJoinerIsTheLastOne(t *testing.T) {
	number := func(n int) roomlog.Event {
		return roomlog.Event{Kind: roomlog.KindOccupancy, Epoch: "E1", Data: []byte(fmt.Sprint(n))}
	}
	onStage(t, func(t *testing.T, st *stage) {
		st.set(func() { st.occupied = 1 })
		first := st.counting()
		st.publish(number(1), number(2)) // another session joined before this one was let in
		st.joined(first)
		st.got(first, string(wire.OccupancyFrame(2)))

		time.Sleep(2 * time.Second)
		st.set(func() { st.occupied = 3 })
		m := st.counting()
		st.publish(number(3), number(4))
		st.step()
		st.joined(m)
		time.Sleep(2 * time.Second)
		st.step()
		for _, p := range []*member{first, m} {
			if got := p.tape.frames(); len(got) == 0 || got[len(got)-1] != string(wire.OccupancyFrame(4)) {
				t.Fatalf("got %q", got)
			}
		}
	})
}

func TestOccupancyOfAReadIsOlderThanWhatWasPublishedSince(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		st.set(func() { st.occupied = 1 })
		m := st.counting()
		st.joined(m)
		time.Sleep(2 * occupancyRate)
		st.hold()
		st.room().read()
		st.set(func() { st.occupied = 2 })
		st.publish(roomlog.Event{Kind: roomlog.KindOccupancy, Epoch: "E1", Data: []byte("2")})
		st.got(m, string(wire.OccupancyFrame(2)))
		st.release()
		time.Sleep(2 * occupancyRate)
		st.got(m, string(wire.OccupancyFrame(2)))
	})
}

// In a new epoch of a room the number is told again, even if it is the same as in the old one.
func TestOccupancyOfANewLifeIsTold(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		st.set(func() { st.occupied = 5 })
		old := st.counting()
		st.joined(old)
		st.again("E2")
		st.set(func() { st.occupied = 1 })
		m := st.counting()
		st.set(func() { st.occupied = 5 }) // four more have joined
		st.publish(roomlog.Event{Kind: roomlog.KindOccupancy, Epoch: "E2", Data: []byte("5")})
		st.joined(m)
		time.Sleep(2 * occupancyRate)
		st.got(m, string(wire.OccupancyFrame(5)))
		st.got(old, fmt.Sprint("close ", int(wire.CloseRoomDeleted)))
	})
}

func TestOccupancyInABatchReachesWhoSkipsItsEntries(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		st.set(func() { st.occupied = 2 })
		old := st.counting()
		st.joined(old)
		events := st.appendMany(2)
		m := st.counting() // has both
		st.joined(m)
		st.publish(events[0], roomlog.Event{Kind: roomlog.KindOccupancy, Epoch: "E1", Data: []byte("5")}, events[1])
		st.got(m, string(wire.OccupancyFrame(5)))
		st.got(old, "E1/1", string(wire.OccupancyFrame(5)), "E1/2")
	})
}
