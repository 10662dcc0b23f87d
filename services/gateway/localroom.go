package gateway

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// localRoom is a room on one shard: its members there, and the position in the log that they
// have reached.
type localRoom struct {
	shard     *shard
	id        string
	epoch     string       // epoch of the members or, while there are none, of the last member or event; "" at first
	last      int64        // seq of the newest entry that was sent or is in the batch
	sentUpTo  atomic.Int64 // last as of the last flush, see storeSentUpTo; any goroutine may read it
	members   []*session
	departing []*session // members that are removed once they have been sent a certain entry

	// What a session that is joining may miss, from shard.open to shard.settled.
	joining map[string]wire.CloseCode // the sessions that are joining, by id; with a code if they have ended meanwhile
	deleted map[string]bool           // epochs that ended meanwhile
	recent  tail                      // entries that the members were given meanwhile

	// How the room catches up (catchup.go).
	waiting    tail // entries that wait for a read, for the first member, or until a full batch has been sent
	reading    reading
	published  int64 // newest seq known when the last read began: a log that ends before it has lost entries
	readNumber int   // of the last read that began: the results of earlier ones are ignored
	failing    bool  // the last read failed
	again      bool  // read once more: something was lost during a read, or while the room had no member
	mixed      bool  // the members do not all have the same epoch; a read will tell which one is over

	// What goes out next, and when (batch.go).
	batch
	dirty        bool          // the room is in shard.dirty
	pieces       bool          // more than a full batch waits: members should take one piece before the next
	patientUntil time.Duration // clock until which pieces wait for members
	restUntil    atomic.Int64  // clock until which the room rests: a message before then may wait

	occupancy occupancy
}

func (r *localRoom) dropIfEmpty() {
	if len(r.members) == 0 && len(r.joining) == 0 && r.shard.rooms[r.id] == r {
		delete(r.shard.rooms, r.id)
	}
}

// add makes m a member that has everything up to seq, and sends it the entries after seq that
// the room remembers. It reports false if not all of them are remembered, or they are too many
// to send at once: the session then reads on from the log and tries again.
func (r *localRoom) add(m *session, seq int64) bool {
	if code := r.joining[m.id]; code != 0 {
		m.close(code)
		return true
	}
	if r.deleted[m.joined.Epoch] {
		m.close(wire.CloseRoomDeleted)
		return true
	}
	m.hasUpTo = seq
	switch {
	case len(r.members) == 0:
		r.addFirst(m)
		return true
	case r.epoch != m.joined.Epoch:
		// One of the two epochs is over; the log tells which.
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
				return false // the session reads these from the log, at its own pace
			}
		}
		if !m.fenceIfLapsed(r.shard.hub.clock()) {
			m.sock.send(missed)
		}
		m.hasUpTo = r.last
	}
	// If seq is ahead of r.last, m already has the next entries: they are skipped for it.
	r.include(m)
	r.greet(m)
	return true
}

func (r *localRoom) include(m *session) {
	m.slot = len(r.members)
	r.members = append(r.members, m)
	m.room.Store(r)
}

// addFirst adds the first member. The room takes its epoch and its position in the log from
// that member.
func (r *localRoom) addFirst(m *session) {
	again := r.again || r.reading != readNone
	entries := append(r.recent.take(), r.waiting.take()...)
	if again { // the log may have lost these: what it still has is read
		entries = nil
	}
	if r.epoch != m.joined.Epoch {
		entries = nil
		r.occupancy.forget()
	}
	r.occupancy.begin(m)
	if r.epoch == m.joined.Epoch && m.hasUpTo < r.last && (len(entries) == 0 || entries[0].Seq > m.hasUpTo+1) {
		again = true // earlier members were further on, by entries that are not remembered
	}
	r.epoch, r.last = m.joined.Epoch, m.hasUpTo
	r.reading, r.again, r.mixed = readNone, false, false
	r.storeSentUpTo()
	r.batch = batch{} // of members that are gone
	r.include(m)
	if len(r.joining) > 1 { // some of the others may have been confirmed before this one
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

// depart removes m from the room, and closes departed, once m has been sent the entry with
// this seq. It reports false if m is not a member.
func (r *localRoom) depart(m *session, seq int64, departed chan struct{}) bool {
	if !r.has(m) {
		return false
	}
	m.until, m.departed = seq, departed
	r.departing = append(r.departing, m)
	r.touch() // flush checks whether m has the entry already
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

// event handles what was published in the room.
func (r *localRoom) event(e roomlog.Event) {
	switch e.Kind { // these name their session or epoch
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
		r.closeEpoch(e.Epoch)
		return
	}
	if e.Epoch != r.epoch {
		if len(r.members) > 0 {
			r.read() // it tells whether the members' epoch is over, and covers this entry
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

// entry gives an entry to the members if it is the next one. If entries before it are missing,
// it waits while they are read from the log.
func (r *localRoom) entry(e roomlog.Entry) {
	switch {
	case r.reading != readNone || len(r.members) == 0 || r.full():
		r.waiting.add(e)
	case e.Seq <= r.last: // the members have it
	case e.Seq > r.last+1:
		r.waiting.add(e)
		r.read()
	default:
		r.enqueue(e)
	}
}

// enqueue appends an entry to the batch that the members get at the next flush.
func (r *localRoom) enqueue(e roomlog.Entry) {
	r.put(e.Seq, e.Seq, e.Frame)
	if len(r.joining) > 0 {
		r.recent.add(e)
	}
}

// storeSentUpTo tells the sessions up to which seq they were sent the log. While there are
// members of two epochs, it stores 0, since it is not known to which of them r.last applies.
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
				r.sendBatch(m) // what came before the notice
			}
			m.close(code)
			r.remove(m)
			return
		}
	}
	if _, ok := r.joining[id]; ok {
		r.joining[id] = code
	}
}

// closeEpoch closes the sessions of an epoch whose room was deleted.
func (r *localRoom) closeEpoch(epoch string) {
	if len(r.joining) > 0 {
		if r.deleted == nil {
			r.deleted = make(map[string]bool)
		}
		r.deleted[epoch] = true
	}
	r.closeWhere(wire.CloseRoomDeleted, func(m *session) bool { return m.joined.Epoch == epoch })
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
