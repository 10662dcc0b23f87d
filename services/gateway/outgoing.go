package gateway

import (
	"slices"
	"sync"
	"time"
)

const (
	// maxInflight is how many messages of a session may be on their way to Redis: one
	// who sends faster than Redis takes is read more slowly.
	maxInflight = 64
	// echoLate is when an echo that has not come is looked for in the log.
	echoLate = time.Second
)

// outgoing are a session's messages until each has its answer: those on their way to
// Redis, and those that stand in the log and have not come back to their sender.
type outgoing struct {
	mu       sync.Mutex
	inflight int           // on their way to Redis
	changed  chan struct{} // closed when one of them is done; nil while nobody waits
	newest   int64         // seq of the newest that was appended
	waiting  []*outMessage // without an answer, the oldest first
	first    int64         // from this seq on, the socket carries every entry,
	before   [2]int64      // and those from the first to before the second of these
}

// outMessage is one MESSAGE that waits for its answer. The mutex of outgoing guards it.
type outMessage struct {
	id       string        // of the sender, if any
	sent     time.Duration // clock when its frame came
	seq      int64         // of the entry that answers it; 0 while none is known
	answered bool          // otherwise than by an entry
}

// begin counts one more on its way, once there is room for it. sentUpTo is the seq up
// to which its session was sent the log.
func (o *outgoing) begin(id string, sent time.Duration, sentUpTo int64) *outMessage {
	m := &outMessage{id: id, sent: sent}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.untilLocked(maxInflight - 1)
	o.inflight++
	o.dropLocked(sentUpTo)
	o.waiting = append(o.waiting, m)
	return m
}

// wait returns once none is on its way to Redis: the publisher sees to it within
// seconds.
func (o *outgoing) wait() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.untilLocked(0)
}

// untilLocked returns once n at most are on their way.
func (o *outgoing) untilLocked(n int) {
	for o.inflight > n {
		if o.changed == nil {
			o.changed = make(chan struct{})
		}
		changed := o.changed
		o.mu.Unlock()
		<-changed
		o.mu.Lock()
	}
}

// appended says that an entry with this seq answers m. It reports false where the socket
// does not carry that entry: the caller answers.
func (o *outgoing) appended(m *outMessage, seq int64) (comes bool) {
	o.done(func() {
		comes = seq >= o.first || o.before[0] <= seq && seq < o.before[1]
		m.seq, m.answered = seq, !comes
		o.newest = max(o.newest, seq)
	})
	return comes
}

// carry says that the socket carries every entry from first on.
func (o *outgoing) carry(first int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.first, o.before = first, [2]int64{}
}

// skip says that the socket does not carry some entries. It answers with the messages that
// wait for one of them: the caller answers those.
func (o *outgoing) skip(from, to int64) (lost []*outMessage) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, m := range o.waiting {
		if !m.answered && from <= m.seq && m.seq <= to {
			m.answered = true
			lost = append(lost, m)
		}
	}
	o.first, o.before = to+1, [2]int64{o.first, from}
	return lost
}

// answered says that m has its answer.
func (o *outgoing) answered(m *outMessage) { o.done(func() { m.answered = true }) }

// unknown says that a message is not on its way any more, and has no answer.
func (o *outgoing) unknown() { o.done(func() {}) }

func (o *outgoing) done(what func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	what()
	o.inflight--
	if o.changed != nil {
		close(o.changed)
		o.changed = nil
	}
}

// oldest answers with the oldest message that has no answer, where its session was
// sent the log up to sentUpTo; false where there is none. seq is 0 while it is not known
// to stand in the log.
func (o *outgoing) oldest(sentUpTo int64) (sent time.Duration, seq int64, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dropLocked(sentUpTo)
	if len(o.waiting) == 0 {
		return 0, 0, false
	}
	return o.waiting[0].sent, o.waiting[0].seq, true
}

// dropLocked forgets what has its answer, as far as it is the oldest.
func (o *outgoing) dropLocked(sentUpTo int64) {
	n := 0
	for n < len(o.waiting) && (o.waiting[n].answered || o.waiting[n].seq > 0 && o.waiting[n].seq <= sentUpTo) {
		n++
	}
	if n == len(o.waiting) {
		o.waiting = nil
		return
	}
	o.waiting = slices.Delete(o.waiting, 0, n)
}

// last is the seq of the newest message that was appended, 0 for none.
func (o *outgoing) last() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.newest
}
