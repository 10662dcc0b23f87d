package pace

import (
	"context"
	"fmt"
	"time"
)

// densest is the rate of deliveries up to which the stamp of each is read. Above it, only
// every seventh member reads stamps: 7 spreads them evenly over two, three or four targets.
const (
	densest = 60_000
	oneIn   = 7
)

// samples reports whether the member reads the stamps of messages.
func (s Shape) samples(member int) bool {
	switch {
	case s.Kind == Burst:
		return member%s.Size < s.Senders
	case s.Rate*float64(s.Size) > densest:
		return member%oneIn == 0
	}
	return true
}

// sending is the sender while messages flow.
type sending struct {
	late histogram // how much later than they were due messages were written
	done chan error
}

// wait returns when everything has been sent.
func (s *sending) wait() error { return <-s.done }

// watch makes latency count only for messages that are due between from and until.
func (c *crowd) watch(from, until time.Duration) {
	c.locked(func() { c.from, c.until = from, until })
}

// talk makes the members send until the time is over or ctx ends.
func (c *crowd) talk(ctx context.Context, begin, until time.Duration) *sending {
	s := &sending{done: make(chan error, 1)}
	switch c.cfg.Shape.Kind {
	case Paced:
		go func() { s.done <- c.paced(ctx, begin, until, &s.late) }()
	case Burst:
		s.done <- c.kick()
	default:
		s.done <- nil
	}
	return s
}

// paced sends each message when it is due, whatever became of those before.
func (c *crowd) paced(ctx context.Context, begin, until time.Duration, late *histogram) error {
	defer precise()()
	shape := c.cfg.Shape
	var buf []byte
	for i := 0; ctx.Err() == nil; i++ {
		due := begin + shape.due(i)
		if due >= until {
			break
		}
		sleepUntil(due)
		r, k := shape.turn(i)
		m := c.members[r*shape.Size+k]
		if err := m.post(&buf, 1, due); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		late.add(now() - due)
	}
	return nil
}

// kick starts a burst, which goes on by itself: a sender answers each of its messages that
// comes back with another one.
func (c *crowd) kick() (err error) {
	shape := c.cfg.Shape
	c.locked(func() {
		for i, m := range c.members {
			if i%shape.Size < shape.Senders && err == nil {
				err = m.post(&m.reader.frames, shape.InFlight, now())
			}
		}
	})
	return err
}

func (c *crowd) latency() *histogram { return &c.latencies }

// owed reports whether a member who is still connected lacks something.
func (c *crowd) owed() (owed bool) {
	c.locked(func() {
		last := map[*room]int64{}
		for _, m := range c.members {
			last[m.room] = max(last[m.room], m.last)
		}
		for _, m := range c.members {
			r := m.room
			owed = owed || m.gone == nil && (m.last < last[r] || m.messages < r.sent.Load()-r.refused.Load())
		}
	})
	return owed
}

// account adds to r what was sent and what went wrong.
func (c *crowd) account(r *Result) {
	c.locked(func() {
		for _, room := range c.rooms {
			r.Sent += room.sent.Load()
			r.Refused += room.refused.Load()
		}
		for _, m := range c.members {
			expected := m.room.sent.Load() - m.room.refused.Load()
			r.Missing += max(expected-m.messages, m.holes, 0)
			r.Double += m.double
			if m.gone != nil {
				r.Closed++
				r.FirstClose = m.gone.Error()
			}
		}
	})
}
