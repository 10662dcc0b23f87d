package gateway

import (
	"strconv"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

const (
	occupancyRate = time.Second // at most one OCCUPANCY in this time
	notKnown      = -1          // of occupied: the read under way will tell
)

// occupancy is what the members of a room are told of its occupied seats, where presence
// is count. The number comes from three sides: it is published when it changes, each read
// of the log brings it, and so does each JOINED. The one published last is the newest, but
// it may be lost; what a read brings is as old as the read's beginning.
type occupancy struct {
	counted  bool // presence is count: members are told
	occupied int  // last told, or to be told; notKnown in a new life of the room
	heard    bool // occupied was published, in this life of the room
	newer    bool // and that since the last read began

	due bool          // a timer will tell it
	at  time.Duration // clock when it was told last; long ago at first
}

// neverTold is the occupancy of a room that nobody is in yet.
func neverTold() occupancy { return occupancy{occupied: notKnown, at: -occupancyRate} }

// forget forgets the number: the room has a new life.
func (o *occupancy) forget() { o.occupied, o.heard = notKnown, false }

// begin takes the number from the first member's JOINED, unless another was published.
func (o *occupancy) begin(m *session) {
	o.counted = m.counted
	if !o.heard {
		o.occupied = m.joined.Occupied
	}
}

// greet tells the number anew where a member's JOINED says another: it may have missed the
// OCCUPANCY.
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

// tellOccupied tells a number at most once a second, the last one always.
func (r *localRoom) tellOccupied(n int) {
	o := &r.occupancy
	o.occupied = n
	if n == notKnown || o.due || len(r.members) == 0 {
		return
	}
	wait := o.at + occupancyRate - r.shard.hub.clock()
	if r.tellsOccupied {
		wait = occupancyRate // behind that one, which has not gone out
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
