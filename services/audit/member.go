package audit

import (
	"fmt"
	"slices"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// EchoPatience is how long after a MESSAGE its echo or ERROR may come. A session that lives
// longer than wire.EchoTimeout has answered; the rest is for the network.
const EchoPatience = wire.EchoTimeout + 2*time.Second

// gapSlack is how many entries may be appended between the seq that JOINED reports and the
// read of what was missed.
const gapSlack = 100

// Member checks what one member of a room receives over its connections, one after another:
// first JOINED, then the log from the position in JOINED, with each entry once and no hole
// without a GAP, and an answer to each message that the member sends.
type Member struct {
	roomID string
	young  bool

	pos  wire.Position    // of the last entry received; Epoch is empty before the first JOINED
	user string           // of JOINED
	echo map[string]int64 // seq of own messages, by id, in this epoch

	// Of the present connection.
	after     *wire.Position // that its JOIN asked for
	joined    int64          // seq of JOINED
	first     int64          // the first seq that the connection carries
	newest    int64          // seq up to which the log has grown; 0 if nobody told
	recovered bool           // JOINED said that nothing is missing
	sent      []request      // not answered, in order
	tries     map[string]int // how often each id was sent
}

// request is a frame of the client that must be answered.
type request struct {
	id string // of a MESSAGE; empty for PING
	at time.Time
}

// Receipt says what a frame means to the member that received it.
type Receipt struct {
	// Entry reports whether the frame is an entry of the log, which must be passed to Room
	// too. The acknowledgement of a repeated message whose entry is older than what this
	// connection carries is not.
	Entry bool
	// Accepted is when the message was sent that this frame acknowledges, if the frame
	// shows that the room accepted it on this connection: the seat was held then. Otherwise
	// it is zero.
	Accepted time.Time
	// Violations is what is wrong with the frame.
	Violations []Violation
}

// NewMember returns a checker of one member. young says that the room is younger than
// wire.HistoryAge, so that its last wire.HistoryEntries entries must all be kept. A GAP
// among them is then a violation when the member rejoins.
func NewMember(roomID string, young bool) *Member {
	return &Member{roomID: roomID, young: young, tries: make(map[string]int), echo: make(map[string]int64)}
}

// Position returns what a rejoin must send as after.
func (m *Member) Position() wire.Position { return m.pos }

// Joined takes the JOINED that confirmed a connection, and the after of its JOIN: nil, or
// an earlier Position.
func (m *Member) Joined(f wire.ServerFrame, after *wire.Position) []Violation {
	if f.RoomID != m.roomID || f.Epoch == "" || f.UserID == "" || f.SessionID == "" || f.Seq < 0 {
		return m.found(WrongFrame, f.Seq, "JOINED of room %q epoch %q user %q session %q", f.RoomID, f.Epoch, f.UserID, f.SessionID)
	}
	seen := m.pos
	if f.Epoch != seen.Epoch {
		clear(m.echo)
		seen = wire.Position{}
	}
	if after != nil && after.Epoch == f.Epoch {
		seen.Seq = max(seen.Seq, after.Seq)
	}
	m.user, m.after, m.joined, m.recovered = f.UserID, after, f.Seq, f.Recovered
	m.sent = nil
	clear(m.tries)
	m.pos = wire.Position{Epoch: f.Epoch, Seq: m.start(f)}
	m.first, m.newest = m.pos.Seq+1, 0

	var vs []Violation
	if seen.Seq > f.Seq {
		vs = m.found(SetBack, f.Seq, "the member had seen up to %d", seen.Seq)
	}
	mayRecover := m.sameLife() && after.Seq <= f.Seq
	if f.Recovered && !mayRecover || !f.Recovered && mayRecover && after.Seq == f.Seq {
		vs = append(vs, m.found(FalseRecovered, f.Seq, "recovered is %v after %+v", f.Recovered, after)...)
	}
	return vs
}

// sameLife reports whether the JOIN asked for what was missed of this life of the room.
func (m *Member) sameLife() bool { return m.after != nil && m.after.Epoch == m.pos.Epoch }

// start returns the seq before that of the first entry or GAP that follows JOINED.
func (m *Member) start(f wire.ServerFrame) int64 {
	switch {
	case m.after == nil:
		return f.Seq
	case m.after.Epoch != f.Epoch:
		return 0
	}
	return min(m.after.Seq, f.Seq)
}

// Grew says that the log has an entry with that seq by now. An observer who sees the whole log
// calls it before Received, and a GAP is then judged exactly.
func (m *Member) Grew(seq int64) { m.newest = max(m.newest, seq) }

// Sent says that a MESSAGE with that id was written; at is a time before the write. Do not
// call it for a message without an id, which cannot be followed.
func (m *Member) Sent(id string, at time.Time) {
	m.tries[id]++
	if seq, ok := m.echo[id]; ok && seq >= m.first {
		return // answered on this connection already
	}
	m.sent = append(m.sent, request{id, at})
}

// Pinged says that a PING was written; at is a time before the write.
func (m *Member) Pinged(at time.Time) { m.sent = append(m.sent, request{"", at}) }

// Unanswered lists the ids of this connection's messages that wait for an echo or
// ERROR, in the order of Sent.
func (m *Member) Unanswered() []string {
	var ids []string
	for _, s := range m.sent {
		if s.id != "" {
			ids = append(ids, s.id)
		}
	}
	return ids
}

// Received takes a frame that came after JOINED.
func (m *Member) Received(f wire.ServerFrame) Receipt {
	switch f.Type {
	case wire.TypeMessage, wire.TypeMemberJoined, wire.TypeMemberLeft:
		return m.entry(f)
	case wire.TypeGap:
		return Receipt{Violations: m.gap(f)}
	case wire.TypeError:
		if f.ID == "" {
			return Receipt{}
		}
		_, vs := m.answer(f.ID, false)
		return Receipt{Violations: vs}
	case wire.TypePong:
		_, vs := m.answer("", false)
		return Receipt{Violations: vs}
	case wire.TypeOccupancy, wire.TypeDraining:
		return Receipt{}
	}
	return Receipt{Violations: m.found(WrongFrame, f.Seq, "a frame of type %q behind JOINED", f.Type)}
}

func (m *Member) entry(f wire.ServerFrame) Receipt {
	own := f.Type == wire.TypeMessage && f.From != nil && f.From.UserID == m.user && f.ID != ""
	if own && f.Seq < m.first && m.tries[f.ID] > 0 {
		return Receipt{Violations: m.echoed(f)}
	}
	r := Receipt{Entry: true}
	switch next := m.pos.Seq + 1; {
	case f.Seq < next:
		r.Violations = m.found(SeqDouble, f.Seq, "%s came when %d was next", f.Type, next)
		return r
	case f.Seq > next:
		v := m.violation(SeqMissing, next, "%s with seq %d came when %d was next", f.Type, f.Seq, next)
		v.Count = f.Seq - next
		r.Violations = append(r.Violations, v)
	case m.after != nil && !m.recovered && next == m.first && f.Seq <= m.joined:
		r.Violations = m.found(FalseRecovered, f.Seq, "recovered is false, and nothing is missing behind %d", f.Seq-1)
	}
	m.pos.Seq = f.Seq
	if own {
		sent, repeated := m.sentAt(f.ID), m.tries[f.ID] > 1
		r.Violations = append(r.Violations, m.echoed(f)...)
		if f.Seq > m.joined && !repeated {
			r.Accepted = sent
		}
	}
	return r
}

// sentAt returns when the message with that id was sent on this connection, zero for never.
func (m *Member) sentAt(id string) time.Time {
	for _, s := range m.sent {
		if s.id == id {
			return s.at
		}
	}
	return time.Time{}
}

// echoed checks that a message of this member has only one place in the log.
func (m *Member) echoed(f wire.ServerFrame) []Violation {
	before, ok := m.echo[f.ID]
	m.echo[f.ID] = f.Seq
	_, vs := m.answer(f.ID, true)
	if ok && before != f.Seq {
		vs = append(vs, m.violation(MessageTwice, f.Seq, "message %s was echoed with seq %d before", f.ID, before))
	}
	return vs
}

// answer removes the requests that a frame answers: the oldest with that id, or all with
// that id. Messages that were sent long before it and are still waiting will not be
// answered any more.
func (m *Member) answer(id string, all bool) (answered bool, vs []Violation) {
	i := slices.IndexFunc(m.sent, func(s request) bool { return s.id == id })
	if i < 0 {
		return false, nil // sent on another connection or tab, or answered before
	}
	at := m.sent[i].at
	m.sent = slices.Delete(m.sent, i, i+1)
	m.sent = slices.DeleteFunc(m.sent, func(s request) bool {
		if all && s.id == id {
			return true
		}
		late := at.Sub(s.at)
		if s.id == "" || late < EchoPatience {
			return false
		}
		vs = append(vs, m.violation(EchoMissing, 0, "message %s of %s has no answer, what was sent %v later has one",
			s.id, m.user, late.Round(time.Millisecond)))
		return true
	})
	return true, vs
}

func (m *Member) gap(f wire.ServerFrame) []Violation {
	next := m.pos.Seq + 1
	m.pos.Seq = max(m.pos.Seq, f.GapTo)
	rejoin := m.sameLife() && f.GapFrom <= m.joined
	if m.newest > 0 && f.GapFrom == next && f.GapTo >= f.GapFrom && (rejoin || f.GapFrom > m.joined) {
		return m.gapThen(f)
	}
	switch {
	case f.GapFrom != next || f.GapTo < f.GapFrom:
		return m.found(FalseGap, next, "GAP from %d to %d came when %d was next", f.GapFrom, f.GapTo, next)
	case rejoin && m.recovered:
		return m.found(FalseRecovered, next, "recovered is true, and a GAP tells that %d to %d will not come", f.GapFrom, f.GapTo)
	case rejoin && m.young && f.GapTo > m.joined-wire.HistoryEntries+gapSlack:
		return m.found(FalseGap, next, "GAP from %d to %d of %d entries, which are still kept", f.GapFrom, f.GapTo, m.joined)
	}
	return nil
}

// gapThen checks a GAP whose place is right, if it is known how far the log has grown. While a
// member that came back takes its entries slowly, history may lose some that it had when the
// member joined.
func (m *Member) gapThen(f wire.ServerFrame) []Violation {
	switch {
	case m.recovered && f.GapFrom == m.first && f.GapFrom <= m.joined:
		return m.found(FalseRecovered, f.GapFrom, "recovered is true, and a GAP tells that %d to %d will not come", f.GapFrom, f.GapTo)
	case m.young && f.GapTo > m.newest-wire.HistoryEntries:
		return m.found(FalseGap, f.GapFrom, "GAP from %d to %d of %d entries, which are still kept", f.GapFrom, f.GapTo, m.newest)
	}
	return nil
}

func (m *Member) violation(kind Kind, seq int64, format string, args ...any) Violation {
	return Violation{
		Kind: kind, RoomID: m.roomID, Epoch: m.pos.Epoch, Seq: seq, Count: 1, Detail: fmt.Sprintf(format, args...),
	}
}

func (m *Member) found(kind Kind, seq int64, format string, args ...any) []Violation {
	return []Violation{m.violation(kind, seq, format, args...)}
}
