package roomlog

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/pipeline"
)

// How a subscriber finds out that its connection brings nothing any more, or leads to
// another Redis than the one that is written to; and what Redis' clock shows, on the way.

const (
	probeEvery    = time.Second
	probePatience = 3 * time.Second // without a probe coming back, the connection is given up within one more
)

// told is what Redis' clock showed, and when that was heard.
type told struct{ clock, at time.Time }

// probed notes that a probe came back. Where one before it did not, other things may have
// been lost with it, of which nothing else would tell.
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

// watch publishes probes and gives the connection up when none comes back, or when ctx
// ends, which Receive does not notice.
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
		// Behind a time in which this process stood still, what came in it is only being read.
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
		// Another Redis has taken over. The one that is subscribed to may live on as its
		// replica, and bring all that is published from now on: but the log of the new one
		// lacks what had not come to it yet, and goes on with seqs that members have seen.
		// It has to answer twice: old connections of the pool may yet lead to the other one.
		switch now := s.sendProbe(ctx); {
		case node == "":
			node = now
		case now == "" || now == node:
			other = ""
		case now == other:
			slog.Warn("another Redis answers now")
			_ = ps.Close() // ends Receive
			return
		default:
			other = now
		}
	}
}

// sendProbe publishes a probe, and asks for the time on the way. A probe that cannot be
// published is one that does not come back. It answers with what identifies the Redis
// that it was sent to, "" where that is not known.
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
		s.sent-- // it may not have been published: the next one bears its number again
		s.mu.Unlock()
	}
	if clock.Err() == nil && !clock.Val().IsZero() {
		s.told.Store(&told{clock.Val(), time.Now()})
	}
	return field(info.Val(), "run_id")
}

// RedisTime is the time by Redis' clock: behind by as long as the last answer was on its
// way, and not ahead of it. Where that clock was set since, or another Redis has taken
// over, or this machine was suspended, it is wrong by as much until the next probe, a
// second later. It reports false before the first answer, which comes about when the
// subscription does.
func (s *Subscriber) RedisTime() (time.Time, bool) {
	t := s.told.Load()
	if t == nil {
		return time.Time{}, false
	}
	return t.clock.Add(time.Since(t.at)), true
}
