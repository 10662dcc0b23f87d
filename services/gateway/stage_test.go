package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
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

// stage is one local room without Redis. The test takes the place of the shard's goroutine,
// and decides what is published and what the log holds.
type stage struct {
	t       *testing.T
	shard   *shard
	writers sync.WaitGroup

	mu sync.Mutex // guards what reads use, which run on goroutines of their own

	// The log of the room's current epoch.
	epoch    string
	entries  []roomlog.Entry // all of them, from seq 1 on
	kept     int             // how many of the newest entries history still has; 0: all
	page     int             // how many entries a read returns at most; 0: all
	occupied int
	gone     bool // there is no room

	held  bool          // reads wait for release
	fault error         // error of the reads
	gate  chan struct{} // closed when held reads may go on
	reads int
}

func newStage(t *testing.T) *stage {
	st := &stage{t: t, epoch: "E1", gate: make(chan struct{})}
	h := &hub{ctx: t.Context(), start: time.Now(), rooms: make(map[string]*headcount), catchUpSlots: make(semaphore, maxReads), subs: new(roomlog.Subscriber)}
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

// readLog returns the log as it was when the read began.
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

// set changes something that reads use, after the reads that have begun have seen it.
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

// step does what waits for the shard, round by round, until nothing is left.
func (st *stage) step() {
	synctest.Wait()
	for st.round() {
		synctest.Wait()
	}
	synctest.Wait()
}

// round does what waits for the shard now, and reports whether there was anything.
func (st *stage) round() bool {
	st.shard.work()
	return len(st.shard.tasks) > 0
}

func (st *stage) room() *localRoom { return st.shard.rooms["room"] }

// append adds an entry to the log and returns its event.
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

// anew adds other entries with the seqs from…to to a log that has lost its own.
func (st *stage) anew(from, to int64) (events []roomlog.Event) {
	for seq := from; seq <= to; seq++ {
		f := []byte(fmt.Sprintf("new/%d", seq))
		st.set(func() { st.entries = append(st.entries, roomlog.Entry{Seq: seq, Frame: f}) })
		events = append(events, roomlog.Event{Kind: roomlog.KindMessage, Epoch: st.epoch, Seq: seq, Data: f})
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

// again begins a new epoch of the room.
func (st *stage) again(epoch string) { st.set(func() { st.epoch, st.entries = epoch, nil }) }

// member is a session and what was sent to its peer.
type member struct {
	*session
	tape *tape
	from int64 // the first seq that it gets
}

// joining begins a join that is confirmed now.
func (st *stage) joining() *member {
	tape := &tape{}
	m := &member{tape: tape, session: &session{id: fmt.Sprintf("s%p", tape), sock: newSocket(tape, wire.MaxQueuedBytes, &st.writers), cohort: new(cohort)}}
	st.shard.open("room", m.id)
	m.joined = wire.Joined{RoomID: "room", Epoch: st.epoch, Seq: int64(len(st.entries)), Occupied: st.occupied}
	m.from = m.joined.Seq + 1
	return m
}

// counting is joining in a room whose presence is count.
func (st *stage) counting() *member {
	m := st.joining()
	m.counted = true
	return m
}

// joined ends a join. Like a session, it reads on from the log while the room does not
// remember everything since.
func (st *stage) joined(m *member) {
	defer st.shard.settled("room", m.id)
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

// got fails unless exactly these frames were sent to the member.
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

// frames returns the texts that were written. The last one may be "close" and a code.
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
