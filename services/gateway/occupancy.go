package gateway

import (
	"strconv"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

const (
	occupancyRate = time.Second // at most one OCCUPANCY in this time
	notKnown      = -1          // value of occupied while the number is not known; the read under way will tell it
)

// occupancy is what the members of a room are told about its occupied seats if presence is
// count. The number comes from three sources: it is published when it changes, and each read
// of the log and each JOINED brings it. The number published last is the newest, but it may be
// lost. The number from a read is as old as the beginning of the read.
type occupancy struct {
	counted  bool // presence is count: members are told
	occupied int  // last told, or to be told; notKnown in a new epoch
	heard    bool // occupied was published, in this epoch
	newer    bool // it was published since the last read began

	due bool          // a timer will tell it
	at  time.Duration // clock when it was told last; long ago at first
}

// neverTold returns the occupancy of a room that has no member yet.
func neverTold() occupancy { return occupancy{occupied: notKnown, at: -occupancyRate} }

// forget forgets the number, since the room has a new epoch.
func (o *occupancy) forget() { o.occupied, o.heard = notKnown, false }

// begin takes the number from the first member's JOINED, unless one was published.
func (o *occupancy) begin(m *session) {
	o.counted = m.counted
	if !o.heard {
		o.occupied = m.joined.Occupied
	}
}

// greet tells the members the number again if m's JOINED has a different one: m may have
// missed the OCCUPANCY.
func (r *localRoom) greet(m *session) {
	if o := &r.occupancy; o.counted && o.occupied != m.joined.Occupied {
		r.tellOccupied(o.occupied)
	}
}

// occupancyPublished takes the number from a notice.
func (r *localRoom) occupancyPublished(data []byte) {
	if n, err := strconv.Atoi(string(data)); err == nil {
		r.occupancy.heard, r.occupancy.newer = true, true
		r.tellOccupied(n)
	}
}

// occupancyRead takes the number that the last read of the log found.
func (r *localRoom) occupancyRead(n int) {
	if o := &r.occupancy; o.counted && !o.newer && n != o.occupied {
		r.tellOccupied(n)
	}
}

// tellOccupied tells the members the number, at most once a second. The last number is always
// told.
func (r *localRoom) tellOccupied(n int) {
	o := &r.occupancy
	o.occupied = n
	if n == notKnown || o.due || len(r.members) == 0 {
		return
	}
	wait := o.at + occupancyRate - r.shard.hub.clock()
	if r.tellsOccupied {
		wait = occupancyRate // one waits in the batch: try again when it should have been sent
	}
	if wait > 0 {
		o.due = true
		time.AfterFunc(wait, func() {
			r.shard.run(func(*shard) {
				o.due = false
				r.tellOccupied(o.occupied)
			})
		})
		return
	}
	r.touch()
	r.frames = appendFrame(r.frames, wire.OccupancyFrame(n))
	r.tellsOccupied = true
}
