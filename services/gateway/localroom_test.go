package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// stage is one local room without Redis: the test is the shard's goroutine, and what is
// published and what the log holds are its to choose.
type stage struct {
	t       *testing.T
	shard   *shard
	writers sync.WaitGroup

	mu sync.Mutex // guards what reads look at, which are goroutines of their own

	// The log of the room's present life.
	epoch    string
	entries  []roomlog.Entry // all of them, from seq 1 on
	kept     int             // how many of the newest history still has; 0: all
	page     int             // how many a read answers with at most; 0: all
	occupied int
	gone     bool // there is no room

	held  bool          // reads wait for release
	fault error         // what reads answer
	gate  chan struct{} // closed when held reads may go on
	reads int
}

func newStage(t *testing.T) *stage {
	st := &stage{t: t, epoch: "E1", gate: make(chan struct{})}
	h := &hub{ctx: t.Context(), start: time.Now(), rooms: make(map[string]*presence), reads: make(turns, maxReads)}
	h.readLog = st.readLog
	st.shard = newShard(h, newMetrics(nil))
	h.shards = []*shard{st.shard}
	t.Cleanup(func() {
		st.release()
		st.shard.reads.Wait()
		st.writers.Wait()
	})
	return st
}

// readLog answers as the log was when the read began.
func (st *stage) readLog(ctx context.Context, _ string, first, last int64) (roomlog.Range, error) {
	st.mu.Lock()
	st.reads++
	found := roomlog.Range{Epoch: st.epoch, Last: int64(len(st.entries)), Occupied: st.occupied}
	oldest := int64(1)
	if st.kept > 0 {
		oldest = max(1, found.Last-int64(st.kept)+1)
	}
	if last == 0 || last > found.Last {
		last = found.Last
	}
	for seq := max(first, oldest); seq <= last; seq++ {
		if found.More = st.page > 0 && len(found.Entries) == st.page; found.More {
			break
		}
		found.Entries = append(found.Entries, st.entries[seq-1])
	}
	err := st.fault
	if st.gone {
		err = wire.Errorf(wire.RoomNotFound, "there is no room")
	}
	held, gate := st.held, st.gate
	st.mu.Unlock()
	if held {
		select {
		case <-gate:
		case <-ctx.Done():
			return roomlog.Range{}, ctx.Err()
		}
	}
	return found, err
}

// set changes something that reads look at, behind those that began.
func (st *stage) set(change func()) {
	synctest.Wait()
	st.mu.Lock()
	defer st.mu.Unlock()
	change()
}

func (st *stage) hold() { st.set(func() { st.held = true }) }

func (st *stage) release() {
	st.set(func() {
		st.held = false
		close(st.gate)
		st.gate = make(chan struct{})
	})
}

// step carries out what waits for the shard, as one batch.
func (st *stage) step() {
	synctest.Wait()
	for {
		st.shard.mu.Lock()
		batch := st.shard.inbox
		st.shard.inbox = nil
		st.shard.mu.Unlock()
		if len(batch) == 0 {
			st.shard.flush()
			synctest.Wait()
			return
		}
		for _, task := range batch {
			task.do(st.shard)
		}
		st.shard.flush()
		synctest.Wait()
	}
}

func (st *stage) room() *localRoom { return st.shard.rooms["room"] }

// append puts an entry into the log, and answers with the event of it.
func (st *stage) append() roomlog.Event {
	seq := int64(len(st.entries) + 1)
	f := []byte(fmt.Sprintf("%s/%d", st.epoch, seq))
	st.set(func() { st.entries = append(st.entries, roomlog.Entry{Seq: seq, Frame: f}) })
	return roomlog.Event{Kind: roomlog.KindMessage, Epoch: st.epoch, Seq: seq, Data: f}
}

func (st *stage) appendMany(n int) (events []roomlog.Event) {
	for range n {
		events = append(events, st.append())
	}
	return events
}

func (st *stage) publish(events ...roomlog.Event) {
	for _, e := range events {
		if r := st.room(); r != nil {
			r.event(e)
		}
	}
}

// again is a new life of the room.
func (st *stage) again(epoch string) { st.set(func() { st.epoch, st.entries = epoch, nil }) }

// member is a session and what reached its peer.
type member struct {
	*session
	tape *tape
	from int64 // the first seq for it
}

// joining begins a join, confirmed now.
func (st *stage) joining() *member {
	st.shard.open("room")
	tape := &tape{}
	m := &member{tape: tape, session: &session{id: fmt.Sprintf("s%p", tape), sock: newSocket(tape, &st.writers)}}
	m.joined = wire.Joined{RoomID: "room", Epoch: st.epoch, Seq: int64(len(st.entries)), Occupied: st.occupied}
	m.from = m.joined.Seq + 1
	return m
}

// joined ends it: as a session does, it reads on for as long as the room does not
// remember what came since.
func (st *stage) joined(m *member) {
	defer st.shard.settled("room")
	seq := m.joined.Seq
	for !st.room().add(m.session, seq) {
		if st.epoch != m.joined.Epoch {
			m.close(wire.CloseUnavailable)
			return
		}
		for ; seq < int64(len(st.entries)); seq++ {
			m.sock.send(appendFrame(nil, st.entries[seq].Frame))
		}
	}
}

func (st *stage) join() *member {
	m := st.joining()
	st.joined(m)
	return m
}

// got fails unless exactly these frames reached the member.
func (st *stage) got(m *member, want ...string) {
	st.t.Helper()
	st.step()
	if got := m.tape.frames(); !slices.Equal(got, want) {
		st.t.Fatalf("got %q, want %q", got, want)
	}
}

func span(epoch string, from, to int) (frames []string) {
	for seq := from; seq <= to; seq++ {
		frames = append(frames, fmt.Sprintf("%s/%d", epoch, seq))
	}
	return frames
}

// tape is a connection that keeps what is written.
type tape struct {
	net.Conn
	mu   sync.Mutex
	data []byte
}

func (c *tape) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.data = append(c.data, p...)
	return len(p), nil
}

func (c *tape) Close() error                     { return nil }
func (c *tape) SetReadDeadline(time.Time) error  { return nil }
func (c *tape) SetWriteDeadline(time.Time) error { return nil }

// frames are the texts written; the last may be "close" and a code.
func (c *tape) frames() (texts []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := strings.NewReader(string(c.data))
	for {
		op, p, err := nextFrame(r)
		switch {
		case errors.Is(err, io.EOF):
			return texts
		case err != nil:
			return append(texts, err.Error())
		case op == closeBits:
			texts = append(texts, fmt.Sprintf("close %d", int(p[0])<<8|int(p[1])))
		default:
			texts = append(texts, string(p))
		}
	}
}

func onStage(t *testing.T, test func(t *testing.T, st *stage)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newStage(t)) })
}

func TestHoleIsReadFromTheLog(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		events := st.appendMany(10)
		st.publish(events[0], events[1], events[5], events[7])
		st.publish(events[8:]...)
		st.got(m, span("E1", 1, 10)...)
		if st.reads == 0 || st.reads > 2 {
			t.Fatalf("%d reads", st.reads)
		}
	})
}

func TestDoublesAreGivenOnce(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		events := st.appendMany(4)
		st.publish(events...)
		st.publish(events...)
		st.publish(events[3], events[0])
		st.got(m, span("E1", 1, 4)...)
		if st.reads != 0 {
			t.Fatalf("%d reads", st.reads)
		}
	})
}

func TestWhatIsGoneFromTheLogIsAGap(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		events := st.appendMany(10)
		st.set(func() { st.kept = 3 })
		st.publish(events[0], events[9])
		st.got(m, "E1/1", string(wire.GapFrame(2, 7)), "E1/8", "E1/9", "E1/10")
		more := st.appendMany(2)
		st.publish(more...)
		st.got(m, append([]string{"E1/1", string(wire.GapFrame(2, 7))}, span("E1", 8, 12)...)...)
	})
}

func TestWhatIsMissingComesInPages(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		st.set(func() { st.page, st.kept = 3, 16 })
		events := st.appendMany(20)
		st.publish(events[17], events[18]) // 16 entries are kept, of which these wait
		st.got(m, append([]string{string(wire.GapFrame(1, 4))}, span("E1", 5, 20)...)...)
		if st.reads < 6 || st.reads > 7 {
			t.Fatalf("%d reads", st.reads)
		}
	})
}

func TestReadThatFailsIsRepeated(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		st.set(func() { st.fault = io.ErrUnexpectedEOF })
		st.publish(st.appendMany(3)[2])
		st.step()
		time.Sleep(time.Second)
		st.step()
		st.set(func() { st.fault = nil })
		time.Sleep(readRetry)
		st.got(m, span("E1", 1, 3)...)
	})
}

func TestWhatComesDuringAReadWaitsForIt(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		st.hold()
		st.publish(st.appendMany(3)[2])
		st.step()
		st.publish(st.appendMany(2)...)
		st.got(m)
		st.release()
		st.got(m, span("E1", 1, 5)...)
	})
}

func TestMoreThanIsRememberedDuringAReadIsReadAgain(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		st.hold()
		st.publish(st.appendMany(3)[2])
		st.step()
		st.publish(st.appendMany(maxTail + 100)...)
		st.release()
		st.step()
		if got := m.tape.frames(); len(got) != maxTail+103 || got[len(got)-1] != fmt.Sprintf("E1/%d", maxTail+103) {
			t.Fatalf("got %d frames", len(got))
		}
	})
}

func TestJoinerGetsWhatWasGivenSinceItsConfirmation(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		old := st.join()
		st.publish(st.appendMany(2)...)
		m := st.joining() // from 3 on
		st.publish(st.appendMany(3)...)
		st.step()
		st.publish(st.append()) // in the same batch as the join
		st.joined(m)
		st.publish(st.append())
		st.got(m, span("E1", 3, 7)...)
		st.got(old, span("E1", 1, 7)...)
	})
}

func TestJoinerAheadOfTheSubscriptionSkipsWhatItHas(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		old := st.join()
		events := st.appendMany(4)
		st.publish(events[0])
		m := st.join() // 2 to 4 are on their way
		st.publish(events[1:]...)
		st.publish(st.append())
		st.got(m, "E1/5")
		st.got(old, span("E1", 1, 5)...)
	})
}

func TestFirstMemberGetsWhatCameWhileItJoined(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		st.appendMany(3)
		m := st.joining()
		st.publish(st.appendMany(2)...)
		st.joined(m)
		st.got(m, "E1/4", "E1/5")
	})
}

func TestJoinerThatBecomesFirstGetsNothingTwice(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		old := st.join()
		m := st.joining()
		st.publish(st.append()) // given to old, in this batch
		st.room().remove(old.session)
		st.joined(m)
		st.publish(st.append())
		st.got(m, "E1/1", "E1/2")
	})
}

func TestJoinerKeepsWhatWaitsForAReadOfMembersThatLeft(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		old := st.join()
		st.hold()
		events := st.appendMany(3)
		st.publish(events[2]) // a hole: old reads
		m := st.joining()     // from 4 on
		st.publish(st.append())
		st.room().remove(old.session)
		st.step()
		st.release()
		st.step() // nobody is there whom the read could serve
		st.joined(m)
		st.got(m, "E1/4")
	})
}

func TestBreakWhileTheFirstMemberJoinsIsRead(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.joining()
		st.appendMany(2) // lost
		st.room().read() // Resubscribed
		st.joined(m)
		st.got(m, "E1/1", "E1/2")
	})
}

func TestSessionThatEndsWhileItJoinsIsClosed(t *testing.T) {
	for kind, want := range map[roomlog.Kind]wire.CloseCode{
		roomlog.KindReplaced: wire.CloseReplaced, roomlog.KindRemoved: wire.CloseRemoved, roomlog.KindDeleted: wire.CloseRoomDeleted,
	} {
		onStage(t, func(t *testing.T, st *stage) {
			old := st.join()
			m := st.joining()
			data := m.id
			if kind == roomlog.KindDeleted {
				data = ""
			}
			st.publish(roomlog.Event{Kind: kind, Epoch: "E1", Data: []byte(data)})
			st.joined(m)
			st.got(m, fmt.Sprintf("close %d", want))
			if kind == roomlog.KindDeleted {
				st.got(old, "close 4442")
			} else {
				st.got(old)
			}
		})
	}
}

func TestNoticeEndsItsSessionBehindWhatCameBefore(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		a, b := st.join(), st.join()
		st.publish(st.append(), roomlog.Event{Kind: roomlog.KindRemoved, Epoch: "E1", Data: []byte(b.id)}, st.append())
		st.got(b, "E1/1", "close 4441")
		st.got(a, "E1/1", "E1/2")
	})
}

func TestNoticeOfAnotherLifeStillEndsItsSession(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		old := st.join()
		st.again("E2")
		m := st.joining()
		st.publish(roomlog.Event{Kind: roomlog.KindReplaced, Epoch: "E2", Data: []byte(m.id)})
		st.joined(m)
		st.got(m, "close 4440")
		_ = old
	})
}

func TestMembersOfTwoLivesAreToldApartByTheLog(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		old := st.join()
		st.publish(st.append())
		st.again("E2")
		st.appendMany(2)
		m := st.join() // its gateway has not heard of the deletion
		st.publish(st.append())
		st.got(old, "E1/1", "close 4442")
		st.got(m, "E2/3")
	})
}

// A read that began in the old life must not end who joined the new one meanwhile.
func TestReadFromBeforeAJoinDoesNotEndTheJoiner(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		old := st.join()
		st.hold()
		st.publish(st.appendMany(2)[1]) // a hole: reads E1
		st.step()
		st.again("E2")
		m := st.join()
		e := st.append()
		st.publish(e)
		st.release()
		st.step()
		st.got(m, "E2/1")
		st.got(old, "E1/1", "E1/2", "close 4442")
	})
}

func TestRoomThatIsGoneEndsItsMembers(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		st.set(func() { st.gone = true })
		st.room().read()
		st.got(m, "close 4442")
	})
}

func TestLogThatLostEntriesSendsMembersBack(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.join()
		st.publish(st.appendMany(5)...)
		st.set(func() { st.entries = st.entries[:2] })
		st.room().read()
		st.got(m, append(span("E1", 1, 5), "close 4503")...)
	})
}

func TestOccupancyOfAJoinerIsTheLastOne(t *testing.T) {
	number := func(n int) roomlog.Event {
		return roomlog.Event{Kind: roomlog.KindOccupancy, Epoch: "E1", Data: []byte(fmt.Sprint(n))}
	}
	onStage(t, func(t *testing.T, st *stage) {
		st.set(func() { st.occupied = 1 })
		first := st.joining()
		first.counted = true
		st.publish(number(1), number(2)) // another one joined before it was let in
		st.joined(first)
		st.got(first, string(wire.OccupancyFrame(2)))

		time.Sleep(2 * time.Second)
		st.set(func() { st.occupied = 3 })
		m := st.joining()
		m.counted = true
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

func TestOccupancyInABatchReachesWhoSkipsItsEntries(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		st.set(func() { st.occupied = 2 })
		old := st.joining()
		old.counted = true
		st.joined(old)
		events := st.appendMany(2)
		m := st.joining() // has both
		m.counted = true
		st.joined(m)
		st.publish(events[0], roomlog.Event{Kind: roomlog.KindOccupancy, Epoch: "E1", Data: []byte("5")}, events[1])
		st.got(m, string(wire.OccupancyFrame(5)))
		st.got(old, "E1/1", string(wire.OccupancyFrame(5)), "E1/2")
	})
}

func TestLeaverIsOutOnceItHasWhatItSaid(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m, other := st.join(), st.join()
		departed := make(chan struct{})
		if !st.room().depart(m.session, 2, departed) {
			t.Fatal("no member")
		}
		st.publish(st.append())
		st.step()
		select {
		case <-departed:
			t.Fatal("departed too early")
		default:
		}
		st.publish(st.append())
		st.step()
		<-departed
		st.publish(st.append())
		st.got(m, "E1/1", "E1/2")
		st.got(other, span("E1", 1, 3)...)
	})
}

func TestTailKeepsTheNewestWithinItsBounds(t *testing.T) {
	var list tail
	for i := range 3 * maxTail {
		list.add(roomlog.Entry{Seq: int64(i + 1), Frame: make([]byte, 1+i%3_000)})
		bytes := 0
		for j, e := range list.entries {
			bytes += len(e.Frame)
			if e.Seq != list.entries[0].Seq+int64(j) {
				t.Fatalf("seq %d at %d", e.Seq, j)
			}
		}
		if last := list.entries[len(list.entries)-1].Seq; bytes != list.bytes || bytes > maxTailBytes || len(list.entries) > maxTail || last != int64(i+1) {
			t.Fatalf("%d entries, %d bytes (%d counted), last %d", len(list.entries), bytes, list.bytes, last)
		}
		if i > 2_000 {
			break // half a second under the race detector
		}
	}
}

// Whatever is lost, doubled or late on the channel, and whoever comes and goes: every
// member sees the log of its life from its JOINED on, in order, each entry once.
func TestMembersSeeTheWholeLogWhateverTheChannelDoes(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			onStage(t, func(t *testing.T, st *stage) { st.wander(rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func (st *stage) wander(rng *rand.Rand) {
	var in, joining, all []*member
	var late []roomlog.Event
	life := 1
	lengths := map[string]int{}
	for range 120 {
		switch n := rng.IntN(100); {
		case n < 40:
			for _, e := range st.appendMany(1 + rng.IntN(4)) {
				switch rng.IntN(12) {
				case 0: // lost
				case 1:
					late = append(late, e)
				case 2:
					st.publish(e, e)
				default:
					st.publish(e)
				}
			}
		case n < 50:
			m := st.joining()
			joining, all = append(joining, m), append(all, m)
		case n < 62 && len(joining) > 0:
			st.joined(joining[0])
			in, joining = append(in, joining[0]), joining[1:]
		case n < 68 && len(in) > 0:
			i := rng.IntN(len(in))
			m := in[i]
			in = slices.Delete(in, i, i+1)
			all = slices.DeleteFunc(all, func(a *member) bool { return a == m })
			if r := st.room(); r != nil {
				r.remove(m.session)
			}
		case n < 74:
			st.publish(late...)
			late = nil
		case n < 78:
			if r := st.room(); r != nil {
				r.read() // a break of the subscription
			}
		case n < 82:
			st.hold()
		case n < 88:
			st.release()
		case n < 90:
			lengths[st.epoch] = len(st.entries)
			old := st.epoch
			life++
			st.again(fmt.Sprintf("E%d", life))
			if rng.IntN(2) == 0 {
				st.publish(roomlog.Event{Kind: roomlog.KindDeleted, Epoch: old})
			}
		default:
			st.step()
		}
	}
	for _, m := range joining {
		st.joined(m)
	}
	st.release()
	if r := st.room(); r != nil {
		r.read()
	}
	for range 5 {
		st.step()
		time.Sleep(readRetry)
	}
	lengths[st.epoch] = len(st.entries)
	for _, m := range all {
		got := m.tape.frames()
		end := ""
		if len(got) > 0 && strings.HasPrefix(got[len(got)-1], "close") {
			end, got = got[len(got)-1], got[:len(got)-1]
		}
		want := span(m.joined.Epoch, int(m.from), lengths[m.joined.Epoch])
		switch {
		case m.joined.Epoch == st.epoch && (end != "" || !slices.Equal(got, want)):
			st.t.Fatalf("a member from %d of %s got %q %s, want %q", m.from, m.joined.Epoch, got, end, want)
		case m.joined.Epoch != st.epoch && (end != "close 4442" && end != "close 4503" || len(got) > len(want) || !slices.Equal(got, want[:len(got)])):
			st.t.Fatalf("a member from %d of the old life %s got %q %s, of %q", m.from, m.joined.Epoch, got, end, want)
		}
	}
}
