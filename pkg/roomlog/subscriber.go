package roomlog

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/pipeline"
)

// Reader gets what is published in the rooms that a Subscriber follows. Its methods
// are called from one goroutine and must not block.
type Reader interface {
	// Event brings one entry or notice.
	Event(roomID string, e Event)
	// Resubscribed says that the room is followed again after a break: what was
	// published meanwhile is lost and has to be read from the log.
	Resubscribed(roomID string)
}

const (
	probeEvery    = time.Second
	probePatience = 3 * time.Second // without a probe coming back, the connection is given up within one more
	reconnectMin  = 50 * time.Millisecond
	reconnectMax  = time.Second
)

// Subscriber follows the channels of the rooms that this process has members in, over
// one connection to Redis. It does not trust that connection: twice over, since a
// client's own health check notices neither a server that accepts and answers nothing
// nor one that is healthy but no longer gets what is published. It publishes a numbered
// probe to itself every second; when none has come back for 3 s, or one comes and not the
// one before it, it connects anew.
type Subscriber struct {
	rdb    Redis
	layout Layout
	reader Reader
	probe  string // the channel of our own probes
	change chan struct{}
	ready  chan struct{} // the channel of our probes is subscribed to

	mu       sync.Mutex
	channels map[string]*channel // by name: those wanted, and those whose answers are due
	changed  map[string]struct{} // names of those to be reconciled
	sent     uint64              // the number of the newest probe
	came     uint64              // that of the last one which came back, or cannot have come
	heard    time.Time           // when a probe last came back
	lost     time.Time           // when the subscription was, and none has come back since

	told atomic.Pointer[told]
}

// told is what Redis' clock showed, and when that was heard.
type told struct{ clock, at time.Time }

// channel is what we know of one subscription. It is live while it is wanted and
// every SUBSCRIBE sent for it was answered.
type channel struct {
	roomID  string
	wanted  bool
	asked   bool          // the last thing sent for it was SUBSCRIBE
	unheard int           // SUBSCRIBEs sent on this connection and not answered
	was     bool          // live on an earlier connection
	live    chan struct{} // closed while live
	isLive  bool
}

// subscription is what the helpers of a connection need of its *redis.PubSub, which does
// not show (see Redis).
type subscription interface {
	Subscribe(ctx context.Context, channels ...string) error
	Unsubscribe(ctx context.Context, channels ...string) error
	Close() error
}

// NewSubscriber makes a subscriber; Run makes it work. rdb is a *redis.Client.
func NewSubscriber(rdb Redis, layout Layout, reader Reader) *Subscriber {
	return &Subscriber{
		rdb: rdb, layout: layout, reader: reader,
		probe:    "ar:probe:" + rand.Text(),
		change:   make(chan struct{}, 1),
		ready:    make(chan struct{}, 1),
		channels: make(map[string]*channel),
		changed:  make(map[string]struct{}),
	}
}

// Subscribe follows a room and waits until Redis has confirmed it: whatever is
// published from then on reaches the reader.
func (s *Subscriber) Subscribe(ctx context.Context, roomID string) error {
	select {
	case <-s.Follow(roomID):
		return nil
	case <-ctx.Done():
		return Fault("subscribe", ctx.Err())
	}
}

// Follow is Subscribe for a caller that waits by itself: the channel is closed once
// Redis has confirmed. It does not block.
func (s *Subscriber) Follow(roomID string) <-chan struct{} {
	name := s.layout.Keys(roomID).Channel()
	s.mu.Lock()
	c := s.channels[name]
	if c == nil {
		c = &channel{roomID: roomID, live: make(chan struct{})}
		s.channels[name] = c
	}
	news := !c.wanted
	if news {
		c.wanted = true
		s.changed[name] = struct{}{}
	}
	live := c.live
	s.mu.Unlock()
	if news {
		s.wake()
	}
	return live
}

// Unsubscribe stops following a room, however often it was subscribed: the caller
// counts its members. It does not block.
func (s *Subscriber) Unsubscribe(roomID string) {
	name := s.layout.Keys(roomID).Channel()
	s.mu.Lock()
	if c := s.channels[name]; c != nil {
		c.wanted = false
		s.changed[name] = struct{}{}
	}
	s.mu.Unlock()
	s.wake()
}

func (s *Subscriber) wake() { signal(s.change) }

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run follows the rooms until ctx ends.
func (s *Subscriber) Run(ctx context.Context) {
	var delay time.Duration
	for ctx.Err() == nil {
		began := time.Now()
		err := s.connection(ctx)
		if ctx.Err() != nil {
			return
		}
		slog.Warn("subscription to Redis lost, connecting again", "err", err)
		s.mu.Lock()
		if s.lost.IsZero() {
			s.lost = time.Now()
		}
		s.mu.Unlock()
		delay = delayAfter(delay, time.Since(began))
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
	}
}

// delayAfter is how long to wait before the next connection: twice as long as the last
// time, unless the connection lived longer than that. Members hear nothing meanwhile.
func delayAfter(last, lived time.Duration) time.Duration {
	if lived > 2*last {
		return reconnectMin
	}
	return min(max(2*last, reconnectMin), reconnectMax)
}

// connection serves one connection until it fails.
func (s *Subscriber) connection(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	ps := s.rdb.(*redis.Client).Subscribe(ctx, s.probe)
	var others sync.WaitGroup
	defer func() {
		cancel()
		_ = ps.Close()
		others.Wait()
		s.forget()
	}()
	s.mu.Lock()
	s.heard = time.Now()
	s.mu.Unlock()
	s.wake()
	others.Go(func() { s.reconcile(ctx, ps) })
	others.Go(func() { s.watch(ctx, ps) })
	for {
		// No timeout: one that fires within a frame would lose what follows.
		msg, err := ps.Receive(ctx)
		if err != nil {
			return err
		}
		switch m := msg.(type) {
		case *redis.Message:
			if err := s.message(m); err != nil {
				return err
			}
		case *redis.Subscription:
			if m.Kind == "subscribe" {
				s.confirmed(m.Channel)
			}
		}
	}
}

// reconcile sends what is missing between the channels wanted and those subscribed.
func (s *Subscriber) reconcile(ctx context.Context, ps subscription) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.change:
		}
		add, drop := s.difference()
		var err error
		if len(drop) > 0 {
			err = ps.Unsubscribe(ctx, drop...)
		}
		if len(add) > 0 && err == nil {
			err = ps.Subscribe(ctx, add...)
		}
		if err != nil {
			_ = ps.Close() // ends Receive
			return
		}
	}
}

func (s *Subscriber) difference() (add, drop []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.changed {
		c := s.channels[name]
		if c == nil {
			continue
		}
		switch {
		case c.wanted && !c.asked:
			c.asked = true
			c.unheard++
			add = append(add, name)
		case !c.wanted && c.asked:
			c.asked = false
			c.unlive()
			drop = append(drop, name)
		}
		if !c.wanted && c.unheard == 0 {
			delete(s.channels, name)
		}
	}
	clear(s.changed)
	return add, drop
}

func (c *channel) unlive() {
	if c.isLive {
		c.isLive = false
		c.live = make(chan struct{})
	}
}

func (s *Subscriber) confirmed(name string) {
	s.mu.Lock()
	if name == s.probe {
		s.came = s.sent // a probe on its way may have come too early
		signal(s.ready)
	}
	c := s.channels[name]
	if c == nil {
		s.mu.Unlock()
		return
	}
	if c.unheard > 0 {
		c.unheard--
	}
	again := false
	switch {
	case c.unheard > 0:
	case !c.wanted && !c.asked:
		delete(s.channels, name)
	case c.asked:
		// A SUBSCRIBE answered twice was sent by a connection made behind our back.
		again = c.was || c.isLive
		c.was = true
		if !c.isLive {
			c.isLive = true
			close(c.live)
		}
	}
	s.mu.Unlock()
	if again {
		s.reader.Resubscribed(c.roomID)
	}
}

// forget marks every channel as not subscribed, since its connection has ended.
func (s *Subscriber) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, c := range s.channels {
		c.asked, c.unheard = false, 0
		c.unlive()
		if !c.wanted {
			delete(s.channels, name)
			continue
		}
		s.changed[name] = struct{}{}
	}
}

// message passes on what was published. Its error says that the connection loses some.
func (s *Subscriber) message(m *redis.Message) error {
	if m.Channel == s.probe {
		return s.probed(m.Payload)
	}
	e, err := ParseEvent(m.Payload)
	if err != nil {
		slog.Error("ignored what was published on a room's channel", "channel", m.Channel, "err", err)
		return nil
	}
	s.mu.Lock()
	c := s.channels[m.Channel]
	s.mu.Unlock()
	if c != nil {
		s.reader.Event(c.roomID, e)
	}
	return nil
}

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
