package roomlog

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/pipeline"
)

// This file is how a subscriber finds out that its connection no longer delivers anything, or
// leads to another Redis than the one that is written to. The probes also tell the time by
// Redis' clock.

const (
	probeEvery    = time.Second
	probePatience = 3 * time.Second // silence after which the connection is given up, within one more second
)

// told is a time read from Redis' clock, and the local time at which it arrived.
type told struct{ clock, at time.Time }

// probed records that a probe came back. It returns an error if the probe before it did not:
// other messages may have been lost with it, and nothing else would reveal that.
func (s *Subscriber) probed(payload string) error {
	number, err := strconv.ParseUint(payload, 10, 64)
	if err != nil {
		return fmt.Errorf("not one of our probes: %q", payload)
	}
	now := time.Now()
	s.mu.Lock()
	missing := number > s.came+1
	lost := s.lost
	s.came, s.heard, s.lost = max(s.came, number), now, time.Time{}
	s.mu.Unlock()
	if missing {
		return fmt.Errorf("probe %d came, and not the one before it", number)
	}
	if !lost.IsZero() {
		slog.Info("subscription to Redis is back", "after", now.Sub(lost).String())
	}
	return nil
}

// watch publishes probes. It closes the connection when none comes back, when another Redis
// answers, or when ctx ends, which Receive does not notice.
func (s *Subscriber) watch(ctx context.Context, ps subscription) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	var node, other string
	looked := time.Now()
	stood := false
	for {
		select {
		case <-ctx.Done():
			_ = ps.Close()
			return
		case <-s.ready:
		case <-tick.C:
		}
		now := time.Now()
		s.mu.Lock()
		// After this process has stood still, messages that arrived meanwhile are only now
		// being read: count the silence from now, but not twice in a row.
		if stood = now.Sub(looked) > 2*probeEvery && !stood; stood {
			s.heard = now
		}
		silent := now.Sub(s.heard)
		s.mu.Unlock()
		looked = now
		if silent > probePatience {
			slog.Warn("no probe came back over the subscription", "silent", silent.String())
			_ = ps.Close() // ends Receive
			return
		}
		// Check whether another Redis has taken over. The one that we are subscribed to may
		// live on as its replica and deliver everything that is published from now on. But
		// the log of the new one lacks the entries that had not been replicated, and
		// continues with seqs that members have already seen. The new one must answer twice,
		// because old connections of the pool may still lead to the other one.
		switch found := s.sendProbe(ctx); {
		case node == "":
			node = found
		case found == "" || found == node:
			other = ""
		case found == other:
			slog.Warn("another Redis answers now")
			_ = ps.Close() // ends Receive
			return
		default:
			other = found
		}
	}
}

// sendProbe publishes a probe and asks for Redis' time in the same round trip. If the probe
// cannot be published, it simply does not come back. sendProbe returns the run id of the
// Redis that it was sent to, or "" if that is not known.
func (s *Subscriber) sendProbe(ctx context.Context) (node string) {
	ctx, cancel := context.WithTimeout(ctx, probeEvery)
	defer cancel()
	pipe := s.rdb.Pipeline()
	clock := pipe.Time(ctx)
	info := pipe.Info(ctx, "server")
	s.mu.Lock()
	s.sent++
	number := s.sent
	s.mu.Unlock()
	probe := pipe.Publish(ctx, s.probe, number)
	pipeline.Exec(ctx, pipe)
	if probe.Err() != nil {
		s.mu.Lock()
		s.sent-- // it may not have been published: the next probe reuses its number
		s.mu.Unlock()
	}
	if clock.Err() == nil && !clock.Val().IsZero() {
		if s.told.Swap(&told{clock.Val(), time.Now()}) == nil {
			close(s.clockKnown)
		}
	}
	return field(info.Val(), "run_id")
}

// ClockKnown returns a channel that is closed once RedisTime is known. Normally that is one
// round trip after the probe channel is subscribed to; if that probe fails, a second or more
// later. So a room can be followed before the clock is known.
func (s *Subscriber) ClockKnown() <-chan struct{} { return s.clockKnown }

// RedisTime returns the time by Redis' clock, the zero time before ClockKnown. The result is
// late by the time that the last reply was on its way, and never early. If Redis' clock was
// set since, another Redis has taken over, or this machine was suspended, the result is wrong
// by that difference until the next probe, a second later.
func (s *Subscriber) RedisTime() time.Time {
	t := s.told.Load()
	if t == nil {
		return time.Time{}
	}
	return t.clock.Add(time.Since(t.at))
}
