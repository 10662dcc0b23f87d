package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

const (
	// window is how many messages may be in flight: fewer than the service's burst of 40, so
	// that the service does not refuse what is sent again after a reconnection.
	window = 32
	// resendFor is how long after the first write a message may be written again. The service
	// remembers an id for wire.MessageIDAge; 10 s of that are reserved for a write in
	// progress.
	resendFor = wire.MessageIDAge - 10*time.Second
	// limitedPause is how long nothing is written after RATE_LIMITED. A client that goes on
	// at once ends up closed with 4429.
	limitedPause = time.Second
	// probedPause replaces limitedPause while the service answers UNAVAILABLE. If the limit
	// is low, refusals of both kinds alternate, and 3 s without RATE_LIMITED make the service
	// count its 10 s before 4429 anew.
	probedPause = 4 * time.Second
	// firstPace is the time between messages after that pause: 13 a second, below the 20 that
	// the service allows by default. It doubles, up to maxPace, if that is still too fast.
	firstPace = 75 * time.Millisecond
	maxPace   = 5 * time.Second
	// paceMemory is how long a pace is kept without another RATE_LIMITED. Then it is halved,
	// and dropped once it is below firstPace. Otherwise a client that keeps sending would
	// never catch up.
	paceMemory = 10 * time.Second
	// probePause is the time between messages, or at least half of it, while the service
	// answers them with UNAVAILABLE.
	probePause = time.Second
)

// outcome is the result of one Send.
type outcome struct {
	seq int64
	err error
}

// outgoing is a message that has been neither echoed nor finally refused. The outbox's mutex
// guards the fields that change.
type outgoing struct {
	id    string
	frame []byte
	done  chan outcome // holds one outcome; nil for Post

	sent   bool      // written to the current session and not refused since
	since  time.Time // time of the first write that may have been accepted; zero if there is none
	unsure bool      // a write before the current one may have been accepted
}

// outbox holds messages until they are answered, and says when to write which one.
type outbox struct {
	limit  int
	jitter func(time.Duration) time.Duration
	prefix string        // makes ids unlike those of every other Member
	wake   chan struct{} // holds one signal: look again

	mu       sync.Mutex // guards what follows
	lastID   uint64
	queue    []*outgoing // in the order of Send
	session  *Session    // where to write; nil while there is no session
	resumeAt time.Time   // nothing is written before then
	pace     time.Duration
	pacedAt  time.Time // when pace was changed
	wroteAt  time.Time
	probing  bool      // the service answered UNAVAILABLE: one message at a time, until an echo comes
	life     [2]string // epoch and user for which the service knows the messages' ids
	closed   error
}

func newOutbox(limit int, jitter func(time.Duration) time.Duration) *outbox {
	return &outbox{
		limit: limit, jitter: jitter, prefix: rand.Text() + "-",
		wake: make(chan struct{}, 1),
	}
}

func (o *outbox) newID() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lastID++
	return o.prefix + strconv.FormatUint(o.lastID, 36)
}

func (o *outbox) add(msg *outgoing) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed != nil {
		return o.closed
	}
	if msg.done == nil && len(o.queue) >= o.limit {
		return ErrOutboxFull
	}
	o.queue = append(o.queue, msg)
	o.look()
	return nil
}

// look wakes the writer.
func (o *outbox) look() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// attach makes s the session to write to.
func (o *outbox) attach(s *Session) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.session = s
	o.look()
}

// detach leaves no session to write to. Messages that were written but not answered will be
// written again.
func (o *outbox) detach() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.session = nil
	for _, msg := range o.queue {
		msg.unsure = msg.unsure || msg.sent
		msg.sent = false
	}
}

// enter sets the room, identified by its epoch, and the user for which the messages are. If
// either changes, it fails the messages that may be in the log already: the service no longer
// knows their ids, so writing them again could deliver them twice, to the new room of that id or
// as another user's.
func (o *outbox) enter(epoch, user string) (posted []*outgoing) {
	o.mu.Lock()
	before, now := o.life, [2]string{epoch, user}
	o.life = now
	o.mu.Unlock()
	if before == now || before == [2]string{} {
		return nil
	}
	return o.fail(func(msg *outgoing) bool { return !msg.since.IsZero() }, errors.New("the room was made anew, or the identity"))
}

// fail removes the messages that pick selects, and answers them with why. Those that may have
// been delivered fail with ErrUnconfirmed too. It returns the messages of Post, for which nobody
// waits.
func (o *outbox) fail(pick func(*outgoing) bool, why error) (posted []*outgoing) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.queue = slices.DeleteFunc(o.queue, func(msg *outgoing) bool {
		if !pick(msg) {
			return false
		}
		err := why
		if !msg.since.IsZero() {
			err = fmt.Errorf("%w: %w", ErrUnconfirmed, why)
		}
		if msg.done == nil {
			posted = append(posted, msg)
		} else {
			msg.done <- outcome{err: err}
		}
		return true
	})
	return posted
}

// close refuses all messages that wait and all that come later.
func (o *outbox) close(why error) {
	o.mu.Lock()
	o.closed = why
	o.mu.Unlock()
	o.fail(func(*outgoing) bool { return true }, why)
}

// forget removes msg and reports whether it may have been delivered.
func (o *outbox) forget(msg *outgoing) (uncertain bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.queue = slices.DeleteFunc(o.queue, func(m *outgoing) bool { return m == msg })
	o.look()
	return !msg.since.IsZero()
}

// pop removes the message with that id from the queue and returns it, or nil if there is
// none. o.mu must be held.
func (o *outbox) pop(id string) *outgoing {
	i := slices.IndexFunc(o.queue, func(m *outgoing) bool { return m.id == id })
	if i < 0 {
		return nil
	}
	msg := o.queue[i]
	o.queue = slices.Delete(o.queue, i, i+1)
	o.look()
	return msg
}

func (o *outbox) echoed(id string, seq int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if msg := o.pop(id); msg != nil {
		o.probing = false
		if msg.done != nil {
			msg.done <- outcome{seq: seq}
		}
	}
}

// refused handles an ERROR about the message with that id. It returns the error that the
// application must receive as an Event: one that is not about a message of ours, or one about
// a Post. If a message of ours is no longer in the queue, it has been answered: its echo
// overtook an ERROR which says that the outcome is unknown.
func (o *outbox) refused(id string, refusal *wire.Error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := slices.IndexFunc(o.queue, func(m *outgoing) bool { return m.id == id })
	if i < 0 {
		if strings.HasPrefix(id, o.prefix) {
			return nil
		}
		return refusal
	}
	msg := o.queue[i]
	switch refusal.Code {
	case wire.RateLimited:
		o.slowDown()
		msg.sent = false
		if !msg.unsure {
			msg.since = time.Time{}
		}
	case wire.Unavailable:
		msg.sent, msg.unsure = false, true
		o.probing = true
		o.pause(probePause/2 + o.jitter(probePause/2))
	default:
		o.pop(id)
		var err error = refusal
		if refusal.Code == wire.Internal { // the message may have reached the log all the same
			err = fmt.Errorf("%w: %w", ErrUnconfirmed, refusal)
		}
		if msg.done == nil {
			return err
		}
		msg.done <- outcome{err: err}
	}
	o.look()
	return nil
}

// slowDown reacts to RATE_LIMITED. The refusals of one burst arrive during one pause, and
// count once.
func (o *outbox) slowDown() {
	if time.Now().Before(o.resumeAt) {
		return
	}
	o.pace, o.pacedAt = min(maxPace, max(firstPace, 2*o.pace)), time.Now()
	pause := limitedPause
	if o.probing {
		pause = probedPause
	}
	o.pause(pause + o.jitter(limitedPause/2))
}

// speedUp undoes the effect of slowDown, step by step.
func (o *outbox) speedUp(now time.Time) {
	for o.pace > 0 && now.Sub(o.pacedAt) > paceMemory {
		o.pacedAt = o.pacedAt.Add(paceMemory)
		if o.pace /= 2; o.pace < firstPace {
			o.pace = 0
		}
	}
}

func (o *outbox) pause(d time.Duration) {
	if until := time.Now().Add(d); until.After(o.resumeAt) {
		o.resumeAt = until
	}
}

// due returns the message to write now and the session to write it to. If there is none, it
// returns how long there is nothing to do, unless o.wake is signalled.
func (o *outbox) due(now time.Time) (s *Session, msg *outgoing, wait time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	wait = time.Hour
	sent := 0
	for _, m := range o.queue {
		if !m.since.IsZero() {
			wait = min(wait, m.since.Add(resendFor).Sub(now))
		}
		if m.sent {
			sent++
		} else if msg == nil {
			msg = m
		}
	}
	most := window
	if o.probing {
		most = 1
	}
	if msg == nil || o.session == nil || sent >= most {
		return nil, nil, wait
	}
	o.speedUp(now)
	at := o.wroteAt.Add(o.pace)
	if o.resumeAt.After(at) {
		at = o.resumeAt
	}
	if at.After(now) {
		return nil, nil, min(wait, at.Sub(now))
	}
	msg.sent, o.wroteAt = true, now
	if msg.since.IsZero() {
		msg.since = now
	}
	return o.session, msg, 0
}

// write writes what is due until the application quits. A write that fails ends the session,
// which the session's reader notices.
func (m *Member) write() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for m.quitting.Err() == nil {
		m.giveUp()
		s, msg, wait := m.out.due(time.Now())
		if msg != nil {
			// Not cancelled by quitting: cancelling a write ends the connection, and LEAVE
			// could not follow.
			ctx, cancel := context.WithTimeout(m.hard, wire.SendTimeout)
			if err := s.SendRaw(ctx, msg.frame); err != nil {
				s.Abort()
			}
			cancel()
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-m.out.wake:
		case <-m.quitting.Done():
		}
	}
}

// giveUp fails the messages that have waited for so long that writing them again could
// deliver them twice.
func (m *Member) giveUp() {
	old := func(msg *outgoing) bool { return !msg.since.IsZero() && time.Since(msg.since) >= resendFor }
	m.unconfirmed(m.out.fail(old, errors.New("no answer in "+resendFor.String())))
}

func (m *Member) unconfirmed(posted []*outgoing) {
	for _, msg := range posted {
		m.emit(Event{ServerFrame: wire.ServerFrame{Type: wire.TypeError, ID: msg.id, Code: wire.Unavailable}, Cause: ErrUnconfirmed})
	}
}
