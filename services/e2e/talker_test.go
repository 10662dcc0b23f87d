package e2e

import (
	"sync"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/audit"
)

// talker is one member of a talk.
type talker struct {
	*client.Member
	talk *talk
	room *talkRoom
	base string // its first base URL; empty for HAProxy

	mu      sync.Mutex // guards what follows
	audit   *audit.Member
	waiting map[string]time.Time // id of a message that has not come back → when it was posted
	newest  time.Time            // when the newest message that has come back was posted
	last    int64                // seq of the newest event
	heard   time.Time            // when the last entry came; zero before the talk
	longest time.Duration        // longest time without an entry
}

// post sends a message. The client may write a message again at any time until it is echoed,
// so the auditor must know of it.
func (m *talker) post(body any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	id, err := m.Post(body)
	if err != nil {
		return err
	}
	m.waiting[id] = time.Now()
	m.audit.Sent(id, m.waiting[id])
	return nil
}

func (m *talker) waits() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.waiting) > 0
}

// settled reports whether the member got an entry after seq, and got back a message of its own
// that it posted after from.
func (m *talker) settled(from time.Time, seq int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last > seq && m.newest.After(from)
}

func (m *talker) reached() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last
}

func (m *talker) hear(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard = now
}

func (m *talker) silence() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.longest
}

// trace audits a frame as it comes over the wire.
func (m *talker) trace(f wire.ServerFrame) {
	m.mu.Lock()
	entry := true
	if f.Type == wire.TypeJoined {
		m.joined(f)
	} else {
		r := m.audit.Received(f)
		m.talk.found(r.Violations)
		entry = r.Entry
	}
	m.mu.Unlock()
	if !entry {
		return
	}
	m.room.mu.Lock()
	defer m.room.mu.Unlock()
	if f.Type == wire.TypeMemberLeft {
		m.room.left++
	}
	m.talk.found(m.room.audit.Saw(f))
}

func (m *talker) joined(f wire.ServerFrame) {
	var after *wire.Position
	if pos := m.audit.Position(); pos.Epoch != "" {
		after = &pos
		m.talk.returns.Add(1)
		if !f.Recovered {
			m.talk.told.Add(1)
		}
	}
	m.talk.found(m.audit.Joined(f, after))
	for id := range m.waiting {
		m.audit.Sent(id, time.Now())
	}
}

// read checks that the events are the log, with each entry once and in order.
func (m *talker) read() {
	for e := range m.Events() {
		m.mu.Lock()
		m.event(e)
		m.mu.Unlock()
	}
	if err := m.Err(); err != nil {
		m.talk.problem("a member's end: %v", err)
	}
}

func (m *talker) event(e client.Event) {
	switch e.Type {
	case wire.TypeJoined:
		if m.last == 0 || e.Seq < m.last { // the first time, or if Redis has lost entries
			m.last = e.Seq
		}
		return
	case wire.TypeGap:
		m.talk.told.Add(1)
		m.last = e.GapTo
		return
	case wire.TypeError:
		m.talk.problem("a member's message: %v", e.Cause)
		return
	case wire.TypeMessage, wire.TypeMemberJoined, wire.TypeMemberLeft:
	default:
		return
	}
	if e.Seq != m.last+1 {
		m.talk.problem("a member of room %s at seq %d got the event %s %d", m.room.id, m.last, e.Type, e.Seq)
	}
	m.last = e.Seq
	if now := time.Now(); !m.heard.IsZero() {
		m.longest, m.heard = max(m.longest, now.Sub(m.heard)), now
	}
	if e.Type == wire.TypeMessage {
		m.talk.delivered.Add(1)
		if posted, own := m.waiting[e.ID]; own {
			m.newest = posted
			delete(m.waiting, e.ID)
		}
	}
}
