package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

const (
	firstDelay = 500 * time.Millisecond
	maxDelay   = 20 * time.Second
	// settled is how long a connection must live for its loss to count as the first failure
	// again. Without this, a service that accepts members and then drops them would be asked
	// twice a second.
	settled = 5 * time.Second
	// attemptTimeout limits one dial and join. The service allows the same time for a join.
	attemptTimeout = wire.JoinTimeout
	// seatBack is the time after which a seat whose lease is not renewed is free, at the
	// latest.
	seatBack = wire.Lease + 2*time.Second
)

// backoff makes the delays between attempts. Each is random, from 0 up to a limit that
// doubles.
type backoff struct {
	jitter   func(time.Duration) time.Duration
	failures int
}

func (b *backoff) next() time.Duration {
	limit := maxDelay
	if b.failures < 6 { // 0.5 s << 6 is 32 s
		limit = min(maxDelay, firstDelay<<b.failures)
	}
	b.failures++
	return b.jitter(limit)
}

// run follows one session after the other. It ends in this order: no more writes, then no
// more events, then done.
func (m *Member) run(s *Session) {
	written := make(chan struct{})
	go func() {
		defer close(written)
		m.write()
	}()
	err := m.stay(s)
	if m.quitting.Err() != nil {
		m.out.close(ErrClosed)
	} else {
		m.err = err
		m.out.close(err)
	}
	m.quit()
	m.cut()
	<-written
	close(m.events)
	close(m.done)
}

// stay goes from session to session and returns the error that ended the last one.
func (m *Member) stay(s *Session) error {
	for {
		began := time.Now()
		err := m.follow(s)
		m.detach(s)
		if m.quitting.Err() != nil || !errors.As(err, new(*CloseError)) || !transient(err) {
			return err
		}
		m.emit(Event{ServerFrame: wire.ServerFrame{Type: TypeDisconnected}, Cause: err})
		if time.Since(began) >= settled {
			m.backoff.failures = 0
		}
		m.at++
		if s, err = m.join(m.quitting, m.comeback()); err != nil {
			return err
		}
		if !m.attach(s) {
			return s.Close(wire.CloseGoingAway) // the application has quit meanwhile
		}
	}
}

// comeback returns the delay before the first attempt. When a gateway drains, it spreads its
// members over time itself.
func (m *Member) comeback() time.Duration {
	if m.drainAt.IsZero() {
		return m.backoff.next()
	}
	delay := time.Until(m.drainAt)
	m.drainAt = time.Time{}
	return delay
}

// join tries until the service confirms or refuses the join, or ctx ends. The first attempt
// comes after delay.
func (m *Member) join(ctx context.Context, delay time.Duration) (*Session, error) {
	var last error
	for {
		if !sleep(ctx, delay) {
			if last == nil {
				return nil, fmt.Errorf("client: enter: %w", ctx.Err())
			}
			return nil, fmt.Errorf("client: enter: %w: %w", ctx.Err(), last)
		}
		s, err := m.attempt(ctx)
		if err == nil {
			return s, nil
		}
		full := errors.Is(err, &wire.Error{Code: wire.RoomFull})
		if !transient(err) && (!full || time.Now().After(m.seatBack)) {
			return nil, err
		}
		last = err
		m.at++
		delay = retryAfter(err) + m.backoff.next()
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// attempt joins once, at one of the base URLs.
func (m *Member) attempt(ctx context.Context) (*Session, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	c := m.clients[m.at%len(m.clients)]
	fresh := m.identity == ""
	if fresh {
		id, err := c.Identity(ctx, m.opts.Nickname)
		if err != nil {
			return nil, err
		}
		m.identity = id.Identity
	}
	tried := m.tried
	s, err := m.show(ctx, c)
	// The permit was sent before, and the reply was lost. If it was confirmed, the user has a
	// seat, which a walk-in takes over.
	if tried && errors.Is(err, &wire.Error{Code: wire.PermitExpired}) {
		m.permit, m.tried = "", false
		s, err = m.show(ctx, c)
	}
	// The identity of the anonymous user has expired. A new user comes back, once the former
	// user's seat is free.
	if m.opts.Identity == "" && !fresh && errors.Is(err, &wire.Error{Code: wire.Unauthenticated}) {
		m.identity, m.seatBack = "", time.Now().Add(seatBack)
		return m.attempt(ctx)
	}
	if err != nil {
		return nil, err
	}
	m.permit, m.tried = "", false
	if made := s.joined.Identity; made != "" {
		m.identity = made
	}
	return s, nil
}

func (m *Member) show(ctx context.Context, c *Client) (*Session, error) {
	m.mu.Lock()
	after := m.pos
	m.mu.Unlock()
	o := JoinOptions{
		RoomID: m.opts.RoomID, Permit: m.permit, Identity: m.identity, Nickname: m.opts.Nickname, After: after,
	}
	s, err := c.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	m.tried = m.permit != ""
	return s.confirmed(ctx, o)
}

// attach makes s the current connection, unless the application has quit.
func (m *Member) attach(s *Session) bool {
	pos := s.Position()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.quitting.Err() != nil {
		return false
	}
	m.session, m.userID, m.pos = s, s.joined.UserID, &pos
	return true
}

func (m *Member) detach(s *Session) {
	m.out.detach()
	m.mu.Lock()
	m.session = nil
	m.mu.Unlock()
	s.Abort()
}

// follow turns one session's frames into events until it ends.
func (m *Member) follow(s *Session) error {
	stop := context.AfterFunc(m.hard, s.Abort)
	defer stop()
	m.opts.Trace(s.joined)
	m.emit(Event{ServerFrame: s.joined})
	m.unconfirmed(m.out.enter(s.joined.Epoch, s.joined.UserID))
	drain := time.AfterFunc(time.Hour, func() {
		s.cut(&CloseError{Code: wire.CloseRestart, Reason: "the gateway is going away"})
	})
	drain.Stop()
	defer drain.Stop()
	written := false
	for {
		// A message that was not echoed yet may come with the replay. Until the replay is
		// over nothing is sent again.
		if !written && (!s.joined.Recovered || m.Position().Seq >= s.joined.Seq) {
			written = true
			m.out.attach(s)
		}
		f, err := s.Receive(context.Background())
		if err != nil {
			return err
		}
		m.opts.Trace(f)
		if f.Type == wire.TypeDraining {
			delay := time.Duration(min(f.ReconnectAfterMs, maxRetryAfter.Milliseconds())) * time.Millisecond
			m.drainAt = time.Now().Add(delay)
			drain.Reset(delay)
			continue
		}
		m.take(s, f)
	}
}

func (m *Member) take(s *Session, f wire.ServerFrame) {
	switch f.Type {
	case wire.TypeMessage, wire.TypeMemberJoined, wire.TypeMemberLeft:
		if f.Type == wire.TypeMessage && f.ID != "" && f.From != nil && f.From.UserID == s.joined.UserID {
			m.out.echoed(f.ID, f.Seq) // also for a duplicate, which answers a repeated message
		}
		m.advance(f.Seq, f)
	case wire.TypeGap:
		m.advance(f.GapTo+1, f)
	case wire.TypeError:
		if cause := m.out.refused(f.ID, &wire.Error{Code: f.Code, Detail: f.Detail}); cause != nil {
			m.emit(Event{ServerFrame: f, Cause: cause})
		}
	case wire.TypeOccupancy:
		m.emit(Event{ServerFrame: f})
	}
}

// advance emits f. seq is the first seq that is not missing: an entry's own, or the one after
// a GAP. If the server left out entries without saying so, advance emits a GAP for them.
func (m *Member) advance(seq int64, f wire.ServerFrame) {
	last := m.Position().Seq
	if seq > last+1 {
		m.reach(seq-1, wire.ServerFrame{Type: wire.TypeGap, GapFrom: last + 1, GapTo: seq - 1})
	}
	if f.Type != wire.TypeGap && seq > last {
		m.reach(seq, f)
	}
}

// reach emits f and moves the position. It moves the position first, so that a goroutine that
// has an Event never finds a position before it.
func (m *Member) reach(seq int64, f wire.ServerFrame) {
	last := m.Position().Seq
	m.move(seq)
	if !m.emit(Event{ServerFrame: f}) {
		m.move(last)
	}
}

func (m *Member) move(seq int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pos.Seq = seq
}

// emit waits until the application has room for e; until then nobody reads the socket. Once
// the application has quit there are no more events, so that those it received have no hole.
func (m *Member) emit(e Event) bool {
	if m.quitting.Err() != nil {
		return false
	}
	select {
	case m.events <- e:
		return true
	case <-m.quitting.Done():
		return false
	}
}
