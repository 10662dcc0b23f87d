package sim

import (
	"maps"
	"reflect"

	"github.com/anishathalye/porcupine"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// A room as the contract has it, one call after the other. When a permit or a lease ends
// is known within bounds only: it ends not before lo and not after hi, both in ms. Who
// certainly holds a seat counts against an OK, who possibly holds one explains a
// ROOM_FULL. A call whose end is not known changes what is possible, and nothing that is
// certain.

// state is what is known of a room of one id.
type state struct {
	live    bool
	maybe   int64 // until then a call on its way may make the room
	epoch   string
	entered bool
	visited bool  // it may have been entered
	emptyLo int64 // end of a room that nobody enters
	emptyHi int64
	vacant  int64 // the room was not empty before
	gone    int64 // and there was one, before
	people  map[string]person
	// Calls on their way: until when a user may get a permit, and a session a seat.
	permits map[string]int64
	joins   map[string]flight
	// Sessions that never come back, whatever becomes of the room; false for those that
	// may never have begun.
	ended map[string]bool
}

// flight is a ConfirmJoin that may yet be carried out.
type flight struct {
	user  string
	until int64
}

// land adds what calls on their way may have brought, those too that have arrived since
// the last call.
func (s *state) land(e event) {
	for session, f := range s.joins {
		if f.until < e.call || s.ended[session] {
			delete(s.joins, session)
		}
		if s.ended[session] {
			continue
		}
		p := s.people[f.user].clone()
		if _, ok := p.sessions[session]; !ok && s.live {
			p.sessions[session] = 0
			s.people[f.user] = p
			s.visited = true
		}
	}
	for user, until := range s.permits {
		if until < e.call {
			delete(s.permits, user)
		}
		if !s.live {
			continue
		}
		p := s.people[user].clone()
		if p.token == "" {
			p.token, p.permitLo = "?", 0
		}
		p.permitHi = max(p.permitHi, until+wire.PermitTTL.Milliseconds())
		s.people[user] = p
	}
}

// finish notes that a session has ended, if it had begun: its lease has a lo.
func (s *state) finish(session string, lo int64) {
	s.ended[session] = s.ended[session] || lo > 0
}

// person is what a user may hold.
type person struct {
	sessions           map[string]int64 // that may hold the seat, with lo of their leases
	token              string           // "?" when it is not known which
	permitLo, permitHi int64
	// Until then the seat is certainly held: by the permit, or by a session that may have
	// used it.
	either int64
	doubt  int64 // until then a call on its way may take the seat
}

func (p person) clone() person {
	p.sessions = maps.Clone(p.sessions)
	if p.sessions == nil {
		p.sessions = make(map[string]int64)
	}
	return p
}

// lo is how long the seat is certainly held.
func (p person) lo(call int64) (lo int64) {
	if p.doubt >= call {
		return 0
	}
	lo = p.either
	if p.token != "" {
		lo = max(lo, p.permitLo)
	}
	for _, session := range p.sessions {
		lo = max(lo, session)
	}
	return lo
}

func (s *state) clone() *state {
	c := *s
	c.people = make(map[string]person, len(s.people))
	for user, p := range s.people {
		c.people[user] = p.clone()
	}
	c.ended, c.permits, c.joins = maps.Clone(s.ended), maps.Clone(s.permits), maps.Clone(s.joins)
	return &c
}

func newState() *state {
	return &state{
		people: map[string]person{}, ended: map[string]bool{}, permits: map[string]int64{}, joins: map[string]flight{},
	}
}

// rules are what a model needs beside the state.
type rules struct {
	shape RoomShape
	ends  map[string]int64 // hi of each session's lease
}

func roomModel(shape RoomShape, ends map[string]int64) porcupine.Model {
	r := rules{shape, ends}
	model := porcupine.NondeterministicModel{
		Init: func() []any { return []any{newState()} },
		Step: func(before, in, _ any) (after []any) {
			for _, s := range r.lives(before.(*state), in.(event)) {
				if r.step(s, in.(event)) {
					after = append(after, s)
				}
			}
			return after
		},
		Equal: reflect.DeepEqual,
	}
	return model.ToModel()
}

// lives answers with the states that the call may find: the one that was left, and a
// new life of the room where the old one may be over and a call on its way may have
// made another.
func (r rules) lives(s *state, e event) []*state {
	same := s.clone()
	same.land(e)
	r.purge(same, e)
	all := []*state{same}
	by := min(same.maybe, e.end) // when the call on its way was carried out, at the latest
	if same.live && r.mayBeGone(same, e, by) || !same.live && same.maybe > 0 && same.gone <= by {
		next := s.clone()
		maybe := next.maybe
		r.adopt(next, e)
		next.epoch, next.emptyLo, next.maybe = "", 0, maybe
		next.emptyHi = maybe + r.shape.Empty.Milliseconds()
		next.land(e)
		r.purge(next, e)
		all = append(all, next)
	}
	return all
}

// step carries a call out; false when a room could not have answered so.
func (r rules) step(s *state, e event) bool {
	if e.kind == "create" {
		return r.create(s, e)
	}
	if e.code == wire.RoomNotFound {
		if s.live && !r.mayBeGone(s, e, e.end) {
			return false
		}
		s.erase()
		s.gone = e.call
		return true
	}
	quiet := e.unknown || e.kind == "cancel" || e.kind == "leave" || e.kind == "renew" // say nothing of the room
	if !quiet && (!s.live || e.epoch != "" && s.epoch != "" && e.epoch != s.epoch) {
		return false
	}
	if e.epoch != "" {
		s.epoch = e.epoch
	}
	switch e.kind {
	case "get":
		return r.counted(s, e)
	case "reserve":
		return r.reserve(s, e)
	case "cancel":
		return r.cancel(s, e)
	case "confirm":
		return r.confirm(s, e)
	case "leave":
		return r.leave(s, e)
	case "renew":
		return r.renew(s, e)
	}
	return false
}

// purge drops what has certainly ended before the call began.
func (r rules) purge(s *state, e event) {
	for user, p := range s.people {
		lo := p.lo(0)
		for session, lo := range p.sessions {
			if r.ends[session] <= e.call {
				delete(p.sessions, session)
				s.finish(session, lo)
			}
		}
		if p.token != "" && p.permitHi <= e.call {
			p.token = ""
		}
		s.people[user] = p
		if len(p.sessions) == 0 && p.token == "" {
			s.drop(user, lo)
		}
	}
	r.settle(s, e)
}

// drop takes a user out, who held the seat until at or later.
func (s *state) drop(user string, at int64) {
	delete(s.people, user)
	s.vacant = max(s.vacant, at)
}

// settle ends the room where that is certain.
func (r rules) settle(s *state, e event) {
	if !s.live || len(s.people) > 0 {
		return
	}
	switch {
	case s.entered && r.shape.Departure == 0:
		s.live, s.gone = false, s.vacant
	case !s.entered && s.emptyHi <= e.call && (!s.visited || r.shape.Departure == 0):
		s.live, s.gone = false, s.vacant
	}
}

// mayBeGone reports whether the room may have ended by then.
func (r rules) mayBeGone(s *state, e event, by int64) bool {
	last := s.vacant
	for _, p := range s.people {
		last = max(last, p.lo(e.call))
	}
	if s.visited && last+r.shape.Departure.Milliseconds() <= by {
		return true
	}
	return !s.entered && s.emptyLo <= by && last <= by
}

// erase ends the room and every session in it.
func (s *state) erase() {
	for _, p := range s.people {
		for session, lo := range p.sessions {
			s.finish(session, lo)
		}
	}
	s.live, s.people = false, map[string]person{}
}

// adopt begins a new life of the room.
func (r rules) adopt(s *state, e event) {
	s.erase()
	empty := r.shape.Empty.Milliseconds()
	s.live, s.epoch, s.entered, s.visited, s.vacant = true, e.epoch, false, false, 0
	s.emptyLo, s.emptyHi = e.call+empty, e.end+empty
}

func (r rules) create(s *state, e event) bool {
	switch {
	case e.unknown:
		s.maybe = max(s.maybe, e.settled)
		return true
	case e.code == wire.RoomExists:
		return s.live
	case s.live && s.epoch == e.epoch:
		return r.counted(s, e) // a repeated request
	case s.live && s.epoch == "":
		s.epoch = e.epoch
		return true
	case s.live && !r.mayBeGone(s, e, e.end):
		return false
	}
	r.adopt(s, e)
	return e.taken <= 0
}

// holders counts who certainly has a seat and who possibly has one, all but one user.
func (s *state) holders(e event, but string) (certain, possible int) {
	for user, p := range s.people {
		if user == but {
			continue
		}
		possible++
		if p.lo(e.call) > e.end {
			certain++
		}
	}
	return certain, possible
}

// counted checks what the answer counts.
func (r rules) counted(s *state, e event) bool {
	certain, possible := s.holders(e, "")
	return e.taken < 0 || certain <= e.taken && e.taken <= possible && e.taken <= r.shape.Capacity
}

// seat checks an answer that wants a seat for a user: OK, or ROOM_FULL.
func (r rules) seat(s *state, e event) bool {
	p, known := s.people[e.user]
	mine := known && p.lo(e.call) > e.end
	certain, possible := s.holders(e, e.user)
	if e.code != wire.RoomFull {
		return mine || certain < r.shape.Capacity
	}
	if mine || possible < r.shape.Capacity {
		return false
	}
	if known && p.doubt < e.call { // what the user had has ended
		for session, lo := range p.sessions {
			s.finish(session, lo)
		}
		s.drop(e.user, p.lo(0))
	}
	return true
}
