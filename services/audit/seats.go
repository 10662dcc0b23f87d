package audit

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Seats counts the seats of one room that were certainly taken, from what its users
// did and heard, without any log. Times are offsets from any moment, the same for all.
//
// The seat of a session is certainly taken from when JOINED was received until its user
// did something that may have given it up (LEAVE, a close, another join). It is certain
// for at most one wire.Lease from when the join was sent, or until the last accepted
// message was sent, if that is later. The seat of a permit is certainly taken from when
// the permit was received until it was used, cancelled, or could have lapsed. The end
// counts from when a request was sent, so nothing is assumed about the network's delay.
type Seats struct {
	roomID   string
	capacity int
	stays    map[string][]span // by user
	samples  []sample
}

type span struct{ from, until time.Duration }

// sample is an answer of the service: taken seats were reserved or occupied at some moment
// of the span.
type sample struct {
	span
	taken int
}

// NewSeats returns a checker of one room.
func NewSeats(roomID string, capacity int) *Seats {
	return &Seats{roomID: roomID, capacity: capacity, stays: make(map[string][]span)}
}

// Held says that a user certainly had a seat between two moments.
func (s *Seats) Held(user string, from, until time.Duration) {
	if from < until {
		s.stays[user] = append(s.stays[user], span{from, until})
	}
}

// Counted says that the service counted taken reserved and occupied seats. asked is when
// the request was sent, heard when the answer came.
func (s *Seats) Counted(taken int, asked, heard time.Duration) []Violation {
	s.samples = append(s.samples, sample{span{asked, heard}, taken})
	if taken > s.capacity {
		return []Violation{s.violation(OverCapacity, taken-s.capacity, "the service counts %d seats of %d", taken, s.capacity)}
	}
	return nil
}

// Audit returns a violation for each period in which more seats were taken than the room
// has, and for each answer of the service that left out seats that were certainly taken.
func (s *Seats) Audit() []Violation {
	var all []span
	for _, stays := range s.stays {
		all = append(all, union(stays)...)
	}
	return append(s.crowded(all), s.vanished(all)...)
}

// union merges the overlapping spans of one user: they are one seat.
func union(stays []span) []span {
	stays = slices.Clone(stays)
	slices.SortFunc(stays, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var joined []span
	for _, s := range stays {
		if n := len(joined); n > 0 && s.from <= joined[n-1].until {
			joined[n-1].until = max(joined[n-1].until, s.until)
		} else {
			joined = append(joined, s)
		}
	}
	return joined
}

// crowded finds the periods over capacity.
func (s *Seats) crowded(all []span) []Violation {
	type edge struct {
		at     time.Duration
		change int
	}
	var edges []edge
	for _, stay := range all {
		edges = append(edges, edge{stay.from, 1}, edge{stay.until, -1})
	}
	slices.SortFunc(edges, func(a, b edge) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.change, b.change))
	})
	var found []Violation
	taken, most := 0, 0
	var since time.Duration
	for _, e := range edges {
		before := taken
		taken += e.change
		most = max(most, taken)
		switch {
		case before == s.capacity && taken > s.capacity:
			since, most = e.at, taken
		case before > s.capacity && taken == s.capacity:
			found = append(found, s.violation(OverCapacity, most-s.capacity, "%d users certainly had seats of %d, %v into the run, for %v",
				most, s.capacity, since.Round(time.Millisecond), (e.at-since).Round(time.Millisecond)))
		}
	}
	return found
}

// vanished finds answers that counted too few seats.
func (s *Seats) vanished(all []span) []Violation {
	slices.SortFunc(all, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var found []Violation
	for _, c := range s.samples {
		certain := 0
		for _, stay := range all {
			if stay.from > c.from {
				break
			}
			if stay.until >= c.until {
				certain++
			}
		}
		if certain > c.taken {
			found = append(found, s.violation(SeatVanished, certain-c.taken, "the service counts %d seats, %d users certainly had one, %v into the run",
				c.taken, certain, c.from.Round(time.Millisecond)))
		}
	}
	return found
}

func (s *Seats) violation(kind Kind, count int, format string, args ...any) Violation {
	return Violation{Kind: kind, RoomID: s.roomID, Count: int64(count), Detail: fmt.Sprintf(format, args...)}
}
