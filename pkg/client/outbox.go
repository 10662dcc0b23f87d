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
	// window is how many messages may be on their way: under the service's burst of 40,
	// so that what is resent after a return is not refused.
	window = 32
	// resendFor is how long after the first write a message may be written again. The
	// service knows an id for wire.MessageIDAge; 10 s of it are for a write under way.
	resendFor = wire.MessageIDAge - 10*time.Second
	// limitedPause is how long nothing is written after RATE_LIMITED. Going on at once
	// ends in 4429.
	limitedPause = time.Second
	// probedPause is that while the service is UNAVAILABLE: its refusals of both kinds take
	// turns, where the limit is low, and 3 s without RATE_LIMITED begin the 10 s anew.
	probedPause = 4 * time.Second
	// firstPace is the time between messages after that: 13 a second, under the 20 that
	// the service allows by default. It doubles up to maxPace when that is still too fast.
	firstPace = 75 * time.Millisecond
	maxPace   = 5 * time.Second
	// paceMemory is how long a pace is kept without another RATE_LIMITED. Then it is halved,
	// and given up below firstPace: else who talks on would never catch up.
	paceMemory = 10 * time.Second
	// probePause is the time between messages, half of it at least, while the service is
	// UNAVAILABLE to them.
	probePause = time.Second
)

// outcome answers one Send.
type outcome struct {
	seq int64
	err error
}

// outgoing is a message that was neither echoed nor refused for good. The outbox's
// mutex guards what changes.
type outgoing struct {
	id    string
	frame []byte
	done  chan outcome // of one; nil for Post

	sent   bool      // written to the present session, and not refused since
	since  time.Time // the first write that may have been accepted; zero without one
	unsure bool      // a write before the present one may have been accepted
}

// outbox holds messages until they are answered and says when to write which.
type outbox struct {
	limit  int
	jitter func(time.Duration) time.Duration
	prefix string        // makes ids unlike those of every other Member
	wake   chan struct{} // of one: look again

	mu       sync.Mutex // guards what follows
	lastID   uint64
	queue    []*outgoing // in the order of Send
	session  *Session    // where to write; nil while there is nowhere
	resumeAt time.Time   // no write before
	pace     time.Duration
	pacedAt  time.Time // when pace was changed
	wroteAt  time.Time
	probing  bool      // UNAVAILABLE was said: one message at a time, until an echo comes
	life     [2]string // epoch and user, for whom the service knows the messages' ids
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

// attach opens the way to s; detach closes it, and what was written and not answered
// waits to be written again.
func (o *outbox) attach(s *Session) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.session = s
	o.look()
}

func (o *outbox) detach() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.session = nil
	for _, msg := range o.queue {
		msg.unsure = msg.unsure || msg.sent
		msg.sent = false
	}
}

// enter says to which life of the room the messages go, and whose they are. What may
// stand in the log already fails where its id is not known any more: to the new room of
// that name, or as another user's.
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

// fail answers the messages that which picks; those that may have been delivered
// fail as ErrUnconfirmed. It returns those of Post, which nobody waits for.
func (o *outbox) fail(which func(*outgoing) bool, why error) (posted []*outgoing) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.queue = slices.DeleteFunc(o.queue, func(msg *outgoing) bool {
		if !which(msg) {
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

// close refuses all that waits and all that comes.
func (o *outbox) close(why error) {
	o.mu.Lock()
	o.closed = why
	o.mu.Unlock()
	o.fail(func(*outgoing) bool { return true }, why)
}

// forget drops msg and reports whether it may have been delivered.
func (o *outbox) forget(msg *outgoing) (uncertain bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.queue = slices.DeleteFunc(o.queue, func(m *outgoing) bool { return m == msg })
	o.look()
	return !msg.since.IsZero()
}

// pop takes the message of that id out of the queue; nil when there is none.
// The mutex is held.
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

// refused deals with an ERROR about the message of that id. It returns the error that the
// application is to be told of as an Event: one about no message of ours, and that of a
// Post. A message of ours that does not wait any more has been answered: its echo
// overtook an ERROR that tells that nothing is known of it.
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
		if refusal.Code == wire.Internal { // it does not say how far the message came
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

// slowDown answers RATE_LIMITED. The refusals of one burst come during one pause, and
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

// speedUp takes back what slowDown did, step by step.
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

// due answers with the message to write now and where, or with how long there is
// nothing to do unless woken.
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

// write writes what is due until the application wants out. A write that fails ends
// the session, which its reader notices.
func (m *Member) write() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for m.quitting.Err() == nil {
		m.giveUp()
		s, msg, wait := m.out.due(time.Now())
		if msg != nil {
			// Not bound by quitting: a write that is broken off ends the connection, and
			// LEAVE could not follow.
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

// giveUp fails what has been waiting for so long that writing it again could deliver
// it twice.
func (m *Member) giveUp() {
	old := func(msg *outgoing) bool { return !msg.since.IsZero() && time.Since(msg.since) >= resendFor }
	m.unconfirmed(m.out.fail(old, errors.New("no answer in "+resendFor.String())))
}

func (m *Member) unconfirmed(posted []*outgoing) {
	for _, msg := range posted {
		m.emit(Event{ServerFrame: wire.ServerFrame{Type: wire.TypeError, ID: msg.id, Code: wire.Unavailable}, Cause: ErrUnconfirmed})
	}
}
