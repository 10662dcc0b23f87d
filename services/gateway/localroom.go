package gateway

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// localRoom is a room on one shard: its members here, and where they are in its log.
type localRoom struct {
	shard     *shard
	id        string
	epoch     string       // of the members; "" before the first
	last      int64        // seq of the last entry that was sent, or goes out next
	sentUpTo  atomic.Int64 // last, as of what was sent; read by the keeper
	members   []*session
	departing []*session // members that wait for an entry, behind which nothing is for them

	// What somebody who is joining may lack (shard.open to settled).
	joining int                       // sessions that do
	recent  tail                      // given meanwhile
	gone    map[string]wire.CloseCode // sessions and epochs that ended meanwhile

	// How it catches up (catchup.go).
	waiting    tail // to be given: they wait for a read, for a first member, or until a full batch has gone
	reading    reading
	published  int64 // newest seq known when the last read began: the log reaches it, or has lost entries
	readNumber int   // begun; the answer to any but the last is of no use
	failing    bool  // the last read failed
	again      bool  // something was lost while reading, or before the first member: read once more
	mixed      bool  // members disagree about the epoch; a read will tell

	// What goes out next, and when (batch.go).
	batch
	dirty        bool          // is in shard.dirty
	pieces       bool          // more than fits into a batch is on its way: members are to take one before the next
	patientUntil time.Duration // clock until which pieces wait for members
	restUntil    atomic.Int64  // clock; what comes before then may wait until then

	occupancy occupancy
}

func (r *localRoom) dropIfEmpty() {
	if len(r.members) == 0 && r.joining == 0 && r.shard.rooms[r.id] == r {
		delete(r.shard.rooms, r.id)
	}
}

// add makes a session a member that has got everything up to seq. It reports false
// when what came behind seq is not remembered any more: the session reads on and
// tries again.
func (r *localRoom) add(m *session, seq int64) bool {
	for _, id := range []string{m.id, m.joined.Epoch} {
		if code, ok := r.gone[id]; ok {
			m.close(code)
			return true
		}
	}
	m.since = seq
	switch {
	case len(r.members) == 0:
		r.addFirst(m)
		return true
	case r.epoch != m.joined.Epoch:
		// One of the two lives of the room is over; the log tells which.
		r.mixed = true
		r.storeSentUpTo()
		r.include(m)
		r.read()
		return true
	case seq < r.last:
		recent := r.recent.entries
		if len(recent) == 0 || recent[0].Seq > seq+1 {
			return false
		}
		var missed []byte
		for _, e := range recent[seq+1-recent[0].Seq:] {
			if missed = appendFrame(missed, e.Frame); len(missed) > fullBatch {
				return false // it takes that at its own pace
			}
		}
		if !m.fenceIfLapsed(r.shard.hub.clock()) {
			m.sock.send(missed)
		}
		m.since = r.last
	}
	// Where seq is ahead of last, what is on its way up to seq is skipped for this member.
	r.include(m)
	r.greet(m)
	return true
}

func (r *localRoom) include(m *session) {
	m.slot = len(r.members)
	r.members = append(r.members, m)
	m.room.Store(r)
}

// addFirst begins with the first member, whose JOINED says where.
func (r *localRoom) addFirst(m *session) {
	again := r.again || r.reading != readNone
	entries := append(r.recent.take(), r.waiting.take()...)
	if again { // of a log that may have lost them: they are read
		entries = nil
	}
	if r.epoch != m.joined.Epoch {
		entries = nil
		r.occupancy.forget()
	}
	r.occupancy.begin(m)
	if r.epoch == m.joined.Epoch && m.since < r.last && (len(entries) == 0 || entries[0].Seq > m.since+1) {
		again = true // the members before it were further on, by what is not remembered
	}
	r.epoch, r.last = m.joined.Epoch, m.since
	r.reading, r.again, r.mixed = readNone, false, false
	r.storeSentUpTo()
	r.batch = batch{} // of members that are gone
	r.include(m)
	if r.joining > 1 { // of the others, some were confirmed before it
		r.recent = upTo(entries, r.last)
	}
	for _, e := range entries {
		r.entry(e)
	}
	r.greet(m)
	if again {
		r.read()
	}
}

func (r *localRoom) has(m *session) bool {
	return m.slot < len(r.members) && r.members[m.slot] == m
}

// depart takes a member out of the room once it has the entry with this seq. It
// reports false where it is no member.
func (r *localRoom) depart(m *session, seq int64, departed chan struct{}) bool {
	if !r.has(m) {
		return false
	}
	m.until, m.departed = seq, departed
	r.departing = append(r.departing, m)
	r.touch() // flush looks whether it has the entry already
	return true
}

// remove takes a session out of the room, if it is in it.
func (r *localRoom) remove(m *session) {
	if !r.has(m) {
		return
	}
	if m.departed != nil {
		close(m.departed)
		m.departed = nil
		r.departing = slices.DeleteFunc(r.departing, func(l *session) bool { return l == m })
	}
	end := len(r.members) - 1
	r.members[m.slot] = r.members[end]
	r.members[m.slot].slot = m.slot
	r.members[end] = nil
	r.members = r.members[:end]
	r.dropIfEmpty()
}

// event takes what was published.
func (r *localRoom) event(e roomlog.Event) {
	switch e.Kind { // what names its session or its epoch
	case roomlog.KindReplaced:
		r.closeSession(string(e.Data), wire.CloseReplaced)
		return
	case roomlog.KindRemoved:
		r.closeSession(string(e.Data), wire.CloseRemoved)
		return
	case roomlog.KindGivenUp:
		r.closeSession(string(e.Data), wire.CloseLeaseLost)
		return
	case roomlog.KindDeleted:
		r.closeEpoch(e.Epoch, wire.CloseRoomDeleted)
		return
	}
	if e.Epoch != r.epoch {
		if len(r.members) > 0 {
			r.read() // tells whether the members' life of the room is over; it covers this entry
			return
		}
		r.epoch = e.Epoch
		r.occupancy.forget()
		r.recent, r.waiting = tail{}, tail{}
	}
	switch e.Kind {
	case roomlog.KindMessage, roomlog.KindJoined, roomlog.KindLeft:
		r.entry(roomlog.Entry{Seq: e.Seq, Frame: e.Data})
	case roomlog.KindOccupancy:
		r.occupancyPublished(e.Data)
	}
}

// entry gives the next entry to the members; a hole before it is read from the log.
func (r *localRoom) entry(e roomlog.Entry) {
	switch {
	case r.reading != readNone || len(r.members) == 0 || r.full():
		r.waiting.add(e)
	case e.Seq <= r.last: // known
	case e.Seq > r.last+1:
		r.waiting.add(e)
		r.read()
	default:
		r.enqueue(e)
	}
}

// enqueue appends an entry to what the members get at the end of this batch.
func (r *localRoom) enqueue(e roomlog.Entry) {
	r.put(e.Seq, e.Seq, e.Frame)
	if r.joining > 0 {
		r.recent.add(e)
	}
}

// storeSentUpTo tells sessions how far they were given the log. While members of two lives are
// here, it is not known which of them that is true of.
func (r *localRoom) storeSentUpTo() {
	if r.mixed {
		r.sentUpTo.Store(0)
	} else {
		r.sentUpTo.Store(r.last)
	}
}

func (r *localRoom) closeSession(id string, code wire.CloseCode) {
	for _, m := range r.members {
		if m.id == id {
			if !m.fenceIfLapsed(r.shard.hub.clock()) {
				r.sendBatch(m) // what came before the close
			}
			m.close(code)
			r.remove(m)
			return
		}
	}
	r.remember(id, code)
}

// remember keeps the end of what may be on its way into the room.
func (r *localRoom) remember(id string, code wire.CloseCode) {
	if r.joining == 0 {
		return
	}
	if r.gone == nil {
		r.gone = make(map[string]wire.CloseCode)
	}
	r.gone[id] = code
}

func (r *localRoom) closeEpoch(epoch string, code wire.CloseCode) {
	r.remember(epoch, code)
	r.closeWhere(code, func(m *session) bool { return m.joined.Epoch == epoch })
}

func (r *localRoom) closeWhere(code wire.CloseCode, end func(*session) bool) {
	r.sendNow()
	for i := 0; i < len(r.members); {
		if m := r.members[i]; end(m) {
			m.close(code)
			r.remove(m)
			continue
		}
		i++
	}
}
