package sim

import "github.com/anteroom-chat/anteroom/pkg/wire"

func (r rules) reserve(s *state, e event) bool {
	p := s.people[e.user].clone()
	if e.unknown {
		s.permits[e.user] = max(s.permits[e.user], e.settled)
		s.land(e)
		return true
	}
	if !r.seat(s, e) {
		return false
	}
	if e.code == wire.RoomFull {
		return true
	}
	if e.code != "" {
		return false
	}
	// A permit that certainly still lives is prolonged, not replaced.
	if p.token != "" && p.token != "?" && p.permitLo > e.end && p.doubt < e.call && p.token != e.token {
		return false
	}
	ttl := wire.PermitTTL.Milliseconds()
	if e.deadline < e.call+ttl || e.deadline > e.end+ttl {
		return false
	}
	p.token, p.permitLo, p.permitHi = e.token, e.deadline, e.deadline
	s.people[e.user] = p
	return true
}

// owner returns the user who holds that permit.
func (s *state) owner(token string) (string, person, bool) {
	for user, p := range s.people {
		if token != "" && p.token == token {
			return user, p, true
		}
	}
	return "", person{}, false
}

// sitter returns the user whose seat that session may hold.
func (s *state) sitter(session string) (string, person, bool) {
	for user, p := range s.people {
		if _, ok := p.sessions[session]; ok {
			return user, p, true
		}
	}
	return "", person{}, false
}

func (r rules) cancel(s *state, e event) bool {
	user, p, ok := s.owner(e.token)
	if !ok {
		return true
	}
	if e.unknown {
		p.permitLo, p.either = 0, 0
		s.people[user] = p
		return true
	}
	until := min(e.call, p.lo(e.call))
	p.token, p.either = "", 0
	s.people[user] = p
	if len(p.sessions) == 0 {
		s.drop(user, until)
		r.settle(s, e)
	}
	return true
}

func (r rules) confirm(s *state, e event) bool {
	if e.unknown {
		return r.maybeConfirm(s, e)
	}
	switch e.code {
	case wire.PermitExpired:
		return r.refused(s, e)
	case wire.RoomFull:
		return e.token == "" && !s.ended[e.session] && r.seat(s, e)
	case "":
	default:
		return false
	}
	if s.ended[e.session] {
		return false
	}
	p, known := s.people[e.user]
	lease := e.call + wire.Lease.Milliseconds()
	if _, again := p.sessions[e.session]; again && len(p.sessions) == 1 && p.sessions[e.session] > e.end {
		p.sessions[e.session] = lease // a repeated call, which renews the lease
		return r.counted(s, e)
	}
	if _, again := p.sessions[e.session]; !again {
		if e.token != "" {
			if !known || p.token != e.token && p.token != "?" {
				return false
			}
		} else if !r.seat(s, e) {
			return false
		}
	}
	p = p.clone()
	for old, lo := range p.sessions {
		if old != e.session {
			s.finish(old, lo)
		}
	}
	switch {
	case e.token != "" || len(p.sessions) == 0:
		p.token = "" // used
	case p.token != "":
		p.permitLo = 0 // it was used if the old session's lease had ended
	}
	p.either = 0
	p.sessions = map[string]int64{e.session: lease}
	s.people[e.user] = p
	s.entered, s.visited = true, true
	return r.counted(s, e)
}

// refused checks PERMIT_EXPIRED: the session has ended, or the permit was used, has lapsed,
// or never existed.
func (r rules) refused(s *state, e event) bool {
	if _, perhaps := s.ended[e.session]; perhaps {
		return true
	}
	if user, p, ok := s.sitter(e.session); ok {
		if p.lo(e.call) > e.end && len(p.sessions) == 1 {
			return false
		}
		s.finish(e.session, p.sessions[e.session])
		delete(p.sessions, e.session)
		if len(p.sessions) == 0 && p.token == "" {
			s.drop(user, p.lo(0))
		}
		return true
	}
	_, p, ok := s.owner(e.token)
	return e.token != "" && (!ok || p.permitLo <= e.end || p.doubt >= e.call)
}

// maybeConfirm notes that the session may have got the seat, or may get it later.
func (r rules) maybeConfirm(s *state, e event) bool {
	user := e.user
	if e.token != "" {
		owner, _, ok := s.owner(e.token)
		if ok {
			user = owner
		} else if s.people[user].token != "?" {
			return true // that permit has lapsed or was used, and cannot become valid again
		}
	}
	if s.ended[e.session] || user == "" {
		return true
	}
	if p := s.people[user].clone(); p.token != "" {
		// The permit may have been used; in both cases the seat is held.
		p.either, p.permitLo = max(p.either, p.permitLo), 0
		s.people[user] = p
	}
	s.joins[e.session] = flight{user, e.settled}
	s.visited = true
	s.land(e)
	return true
}

func (r rules) leave(s *state, e event) bool {
	user, p, ok := s.sitter(e.session)
	if e.unknown {
		s.finish(e.session, 0)
		if ok {
			p.doubt, p.either = max(p.doubt, e.settled), 0
			p.sessions[e.session] = 0
			s.people[user] = p
		}
		return true
	}
	s.ended[e.session] = true
	if !ok {
		return true
	}
	until := min(e.call, p.lo(e.call))
	delete(p.sessions, e.session)
	p.either = 0
	for other := range p.sessions { // the session that left may have replaced it
		p.sessions[other] = 0
	}
	s.people[user] = p
	s.vacant = max(s.vacant, until)
	if len(p.sessions) == 0 && p.token == "" {
		s.drop(user, until)
		r.settle(s, e)
	}
	return true
}

func (r rules) renew(s *state, e event) bool {
	for _, session := range e.renewed {
		user, p, ok := s.sitter(session)
		if !ok {
			return false
		}
		p = p.clone()
		if p.doubt < e.call { // otherwise a Leave may still come
			p.sessions[session] = max(p.sessions[session], e.leaseFrom(e.call))
		}
		s.people[user] = p
	}
	for _, session := range e.lost {
		user, p, ok := s.sitter(session)
		if !ok {
			continue
		}
		if len(p.sessions) == 1 && p.doubt < e.call && p.sessions[session] > e.end {
			return false
		}
		s.ended[session] = true
		lo := p.lo(0)
		delete(p.sessions, session)
		if len(p.sessions) == 0 && p.token == "" {
			s.drop(user, lo)
		}
	}
	r.settle(s, e)
	return true
}
