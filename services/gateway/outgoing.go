package gateway

import (
	"slices"
	"sync"
	"time"
)

const (
	// maxInflight is how many messages of a session may be on their way to Redis. A client that
	// sends faster than Redis takes is read more slowly.
	maxInflight = 64
	// echoLate is how long after its MESSAGE an echo that has not come is read from the log.
	echoLate = time.Second
)

// These are the positions in a room's log that concern a member, all of them seqs:
//
//	joined.Seq        the member's join, as JOINED tells it; never changes
//	hasUpTo           the end of what the member was sent individually, in its replay; the room
//	                  leaves out entries up to here
//	localRoom.last    the newest entry that the room's members were sent, or that is in the batch
//	      .sentUpTo   last as of the last flush, for other goroutines
//	      .published  the newest that was known when the last read began; a log that ends before it
//	                  has lost entries
//	outgoing.newest   the newest message of its own
//	outgoing.first    from here on, the socket carries every entry; before that, those of before
//
// So an own message has its echo once sentUpTo has reached it, if the socket carries it.

// outgoing holds a session's messages until each has its answer: those on their way to Redis,
// and those in the log whose echo the sender has not been sent.
type outgoing struct {
	mu       sync.Mutex
	inflight int           // messages on their way to Redis
	changed  chan struct{} // closed when one of them is done; nil while nobody waits
	newest   int64         // seq of the newest that was appended
	waiting  []*outMessage // messages without an answer, the oldest first
	first    int64         // from this seq on, the socket carries every entry,
	before   [2]int64      // and those from before[0] to before[1]-1
}

// outMessage is a MESSAGE that waits for its answer. The mutex of outgoing guards it.
type outMessage struct {
	id       string        // given by the sender; may be empty
	sent     time.Duration // clock when its frame came
	seq      int64         // of the entry that answers it; 0 while none is known
	answered bool          // has an answer other than an entry
}

// begin adds a message that is on its way to Redis, and waits first until there are fewer than
// maxInflight. sentUpTo is the seq up to which its session was sent the log.
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

// wait returns once no message is on its way to Redis any more. The publisher ends each within
// seconds.
func (o *outgoing) wait() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.untilLocked(0)
}

// untilLocked returns once at most n messages are on their way. It releases the mutex while it
// waits.
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

// appended records that the entry with this seq answers m. It reports false if the socket does
// not carry that entry: the caller must answer m.
func (o *outgoing) appended(m *outMessage, seq int64) (comes bool) {
	o.done(func() {
		comes = seq >= o.first || o.before[0] <= seq && seq < o.before[1]
		m.seq, m.answered = seq, !comes
		o.newest = max(o.newest, seq)
	})
	return comes
}

// carry records that the socket carries every entry from first on.
func (o *outgoing) carry(first int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.first, o.before = first, [2]int64{}
}

// skip records that the socket does not carry the entries from…to. It returns the messages
// that wait for one of these: the caller must answer them.
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

// answered records that m has its answer.
func (o *outgoing) answered(m *outMessage) { o.done(func() { m.answered = true }) }

// unknown records that a message is no longer on its way, and has no answer.
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

// oldest returns when the oldest message without an answer was sent, and its seq, which is 0
// while the message is not known to be in the log. ok is false if every message has its
// answer. sentUpTo is the seq up to which the session was sent the log.
func (o *outgoing) oldest(sentUpTo int64) (sent time.Duration, seq int64, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dropLocked(sentUpTo)
	if len(o.waiting) == 0 {
		return 0, 0, false
	}
	return o.waiting[0].sent, o.waiting[0].seq, true
}

// dropLocked drops the oldest messages, up to the first one that has no answer.
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

// last returns the seq of the newest message that was appended, 0 if there is none.
func (o *outgoing) last() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.newest
}
