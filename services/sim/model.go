package sim

import (
	"maps"
	"reflect"

	"github.com/anishathalye/porcupine"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// This file models a room according to the contract, one call after another. The end of a
// permit or a lease is known only within bounds: it ends not before lo and not after hi,
// both in ms. Users who certainly hold a seat can make an OK wrong; users who possibly hold
// one can explain a ROOM_FULL. A call whose outcome is unknown adds possibilities, and can
// make something uncertain, but never certain.

// state is what is known of the room with one id.
type state struct {
	live    bool
	maybe   int64 // until then a call on its way may create the room
	epoch   string
	entered bool
	visited bool  // it may have been entered
	emptyLo int64 // earliest end of the room if nobody enters it
	emptyHi int64 // latest end of the room if nobody enters it
	vacant  int64 // the room was not empty before this time
	gone    int64 // and it still existed before this time
	people  map[string]person
	// Calls on their way: until when a user may still get a permit, by user, and which
	// sessions may still get a seat.
	permits map[string]int64
	joins   map[string]flight
	// Sessions that never come back, even in a new life of the room. The value is false for
	// sessions that may never have begun.
	ended map[string]bool
}

// flight is a ConfirmJoin that may still be carried out.
type flight struct {
	user  string
	until int64
}

// land adds what calls on their way may have done, including those that can have arrived
// only since the last call.
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

// finish notes that a session has ended. It has certainly begun if its lease has a lo.
func (s *state) finish(session string, lo int64) {
	s.ended[session] = s.ended[session] || lo > 0
}

// person is what a user may hold.
type person struct {
	sessions           map[string]int64 // sessions that may hold the seat → lo of their leases
	token              string           // the permit; "?" if it is not known which
	permitLo, permitHi int64
	// either is until when the seat is certainly held, be it by the permit or by a session
	// that may have used it.
	either int64
	doubt  int64 // until then a call on its way may take the seat away
}

func (p person) clone() person {
	p.sessions = maps.Clone(p.sessions)
	if p.sessions == nil {
		p.sessions = make(map[string]int64)
	}
	return p
}

// lo returns until when the seat is certainly held.
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

// rules is what the model needs besides the state.
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

// lives returns the states that the call may find: that after the last call and, if the
// room may have ended and a call on its way may have created it again, that of a new life
// of the room.
func (r rules) lives(s *state, e event) []*state {
	same := s.clone()
	same.land(e)
	r.purge(same, e)
	all := []*state{same}
	by := min(same.maybe, e.end) // the latest time at which the call on its way took effect
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

// step carries a call out. It returns false if a room could not have given that answer.
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
	quiet := e.unknown || e.kind == "cancel" || e.kind == "leave" || e.kind == "renew" // says nothing about the room
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

// drop removes a user who held the seat until at or later.
func (s *state) drop(user string, at int64) {
	delete(s.people, user)
	s.vacant = max(s.vacant, at)
}

// settle ends the room if it has certainly ended.
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

// mayBeGone reports whether the room may have ended by the time by.
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

// adopt starts a new life of the room.
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

// holders counts the users, except one, who certainly have a seat, and those who possibly
// have one.
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

// counted checks how many taken seats the answer counts.
func (r rules) counted(s *state, e event) bool {
	certain, possible := s.holders(e, "")
	return e.taken < 0 || certain <= e.taken && e.taken <= possible && e.taken <= r.shape.Capacity
}

// seat checks the answer to a call that asks for a seat for a user: OK or ROOM_FULL.
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
