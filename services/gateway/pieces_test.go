package gateway

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// slowTape takes two full batches every pieceRest.
type slowTape struct{ tape }

func (c *slowTape) Write(p []byte) (int, error) {
	time.Sleep(pieceRest * time.Duration(len(p)) / (2 * fullBatch))
	return c.tape.Write(p)
}

// backlog makes entries of 1 MiB in all.
func (st *stage) backlog() (events []roomlog.Event) {
	for range 100 {
		e := st.append()
		e.Data = []byte(strings.Repeat("x", 10<<10))
		events = append(events, e)
	}
	return events
}

// drain lets the shard work for a second.
func (st *stage) drain() {
	for range time.Second / pieceLook {
		st.step()
		time.Sleep(pieceLook)
	}
}

// What came while the process was stalled is more than may be queued for a member. A member
// who reads must not be closed as a slow reader for that.
func TestMembersWhoReadGetABacklogAPieceAtATime(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.joining()
		tape := &slowTape{}
		m.sock = newSocket(tape, wire.MaxQueuedBytes, &st.writers)
		st.joined(m)
		backlog := st.backlog()
		st.publish(backlog...)
		st.drain()
		if code := m.sock.closeCode(); code != 0 {
			t.Fatalf("closed with %d", code)
		}
		if got := tape.frames(); len(got) != len(backlog) || st.reads != 0 {
			t.Fatalf("%d entries of %d came, with %d reads of the log", len(got), len(backlog), st.reads)
		}
	})
}

func TestMembersWhoDoNotReadABacklogAreClosed(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.joining()
		conn, peer := net.Pipe()
		defer peer.Close()
		m.sock = newSocket(conn, wire.MaxQueuedBytes, &st.writers)
		st.joined(m)
		st.publish(st.backlog()...)
		st.drain()
		if code := m.sock.closeCode(); code != wire.CloseSlowConsumer {
			t.Fatalf("closed with %d", code)
		}
		m.sock.abort()
	})
}

func TestWhatWasSaidBeforeARoomsDeletionComesBeforeIt(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		said := st.backlog()[:20] // more than a batch
		st.publish(said...)
		st.publish(roomlog.Event{Kind: roomlog.KindDeleted, Epoch: st.epoch})
		st.step()
		got := m.tape.frames()
		if want := fmt.Sprint("close ", int(wire.CloseRoomDeleted)); len(got) != len(said)+1 || got[len(said)] != want {
			t.Fatalf("%d frames, the last is %.20s", len(got), got[len(got)-1])
		}
	})
}

// After a stall, many takeovers come at once.
func TestTakeoversInABacklogDoNotHurryIt(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.joining()
		m.sock = newSocket(&slowTape{}, wire.MaxQueuedBytes, &st.writers)
		st.joined(m)
		var replaced []*member
		for range 10 {
			replaced = append(replaced, st.join())
		}
		for i, e := range st.backlog() {
			st.publish(e)
			if i%10 == 9 {
				st.publish(roomlog.Event{Kind: roomlog.KindReplaced, Data: []byte(replaced[i/10].id)})
			}
		}
		st.drain()
		if code := m.sock.closeCode(); code != 0 {
			t.Fatalf("closed with %d", code)
		}
		for _, r := range replaced {
			if code := r.sock.closeCode(); code != wire.CloseReplaced {
				t.Fatalf("one replaced was closed with %d", code)
			}
		}
	})
}

// pacedTape takes this many bytes per second.
type pacedTape struct {
	tape
	rate int
}

func (c *pacedTape) Write(p []byte) (int, error) {
	time.Sleep(time.Second * time.Duration(len(p)) / time.Duration(c.rate))
	return c.tape.Write(p)
}

// The slow member takes each piece soon enough, but less than what is sent to the room.
func TestAMemberWhoIsTooSlowDoesNotHoldTheOthersBack(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		st.set(func() { st.kept, st.page = 1000, 32 })
		fast, slow := st.join(), st.joining()
		slow.sock = newSocket(&pacedTape{rate: 1_400_000}, wire.MaxQueuedBytes, &st.writers)
		st.joined(slow)
		for ms := range 3_000 { // 2 MB/s
			e := st.append()
			e.Data = []byte(strings.Repeat("x", 2_000))
			st.entries[e.Seq-1].Frame = e.Data
			st.publish(e)
			if ms > 100 { // before that, this process was stalled
				st.step()
			}
			time.Sleep(time.Millisecond)
		}
		if code := slow.sock.closeCode(); code != wire.CloseSlowConsumer {
			t.Errorf("the slow one was closed with %d", code)
		}
		if got := len(fast.tape.frames()); got < len(st.entries)-1 {
			t.Errorf("%d entries of %d came to the other", got, len(st.entries))
		}
	})
}

// What waits in the room when its new epoch is found is not for the members who stay.
func TestMembersOfANewLifeGetNothingOfTheOldOnesBacklog(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		for range manyMembers {
			st.join()
		}
		st.publish(st.append())
		st.step() // from here on, it rests
		second, third := st.append(), st.append()
		st.publish(second)
		st.again("E2")
		st.append()
		m := st.joining()
		st.hold()
		st.joined(m)
		st.publish(third)
		st.release()
		st.step()
		st.publish(st.append())
		time.Sleep(hotRest)
		st.got(m, "E2/2")
	})
}
