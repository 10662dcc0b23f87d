package roomlog

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/redisdb"
)

// Reader receives what is published in the rooms that a Subscriber follows. Its methods are
// called from one goroutine and must not block.
type Reader interface {
	// Event delivers one entry or notice.
	Event(roomID string, e Event)
	// Resubscribed reports that the room is followed again after a break. What was published
	// meanwhile is lost and must be read from the log.
	Resubscribed(roomID string)
}

const (
	reconnectMin = 50 * time.Millisecond
	reconnectMax = time.Second
)

// Subscriber follows the channels of the rooms that this process has members in, over one
// connection to Redis. It trusts neither that connection nor go-redis' own health check. The
// check does not notice a server that accepts connections but never answers, nor one that
// answers but no longer receives what is published. So the Subscriber publishes a numbered
// probe to itself every second. It connects again when no probe has come back for 3 s, or
// when a probe comes back but the one before it did not.
type Subscriber struct {
	rdb    redisdb.Redis
	layout Layout
	reader Reader
	probe  string // channel of our own probes
	change chan struct{}
	ready  chan struct{} // signalled when the probe channel has been subscribed to

	mu       sync.Mutex
	channels map[string]*channel // by name; those that are wanted or have an unanswered SUBSCRIBE
	changed  map[string]struct{} // names of the channels to be reconciled
	sent     uint64              // number of the newest probe
	came     uint64              // number of the newest probe that came back, or that was sent before we subscribed
	heard    time.Time           // when a probe last came back
	lost     time.Time           // when the subscription was lost; zero once a probe has come back

	told       atomic.Pointer[told]
	clockKnown chan struct{} // closed once told is set
}

// channel is the state of one subscription. It is live while it is wanted and every SUBSCRIBE
// that was sent for it has been answered.
type channel struct {
	roomID  string
	wanted  bool
	asked   bool          // the last command sent for it was SUBSCRIBE
	unheard int           // SUBSCRIBEs sent on this connection and not answered yet
	was     bool          // it has been live before
	live    chan struct{} // closed while live
	isLive  bool
}

// subscription is the part of *redis.PubSub that the helpers of a connection use. That type
// itself must not appear in signatures (see Redis).
type subscription interface {
	Subscribe(ctx context.Context, channels ...string) error
	Unsubscribe(ctx context.Context, channels ...string) error
	Close() error
}

// NewSubscriber returns a Subscriber that does nothing until Run is called. rdb must be a
// *redis.Client.
func NewSubscriber(rdb redisdb.Redis, layout Layout, reader Reader) *Subscriber {
	return &Subscriber{
		rdb: rdb, layout: layout, reader: reader,
		probe:    "ar:probe:" + rand.Text(),
		change:   make(chan struct{}, 1),
		ready:    make(chan struct{}, 1),
		channels: make(map[string]*channel),
		changed:  make(map[string]struct{}),

		clockKnown: make(chan struct{}),
	}
}

// Follow subscribes to a room without blocking. The returned channel is closed once Redis has
// confirmed the subscription: what is published from then on reaches the reader.
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

// Unfollow stops following a room, however often Follow was called for it: the caller must
// count the room's members. It does not block.
func (s *Subscriber) Unfollow(roomID string) {
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

// Run keeps the subscriptions until ctx ends.
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

// delayAfter returns how long to wait before connecting again: twice as long as last time, or
// the minimum if the connection lived longer than that. Members hear nothing meanwhile, so
// the delay must be short.
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
		// No timeout: if it fired in the middle of a reply, the rest of that reply would be
		// lost.
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

// reconcile sends the SUBSCRIBEs and UNSUBSCRIBEs that turn the current subscriptions into
// the wanted ones, whenever something has changed.
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
		s.came = s.sent // earlier probes may have been published before this subscription
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
		// If a SUBSCRIBE is answered twice, go-redis has connected again by itself and sent
		// it again.
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

// forget marks every channel as not subscribed, because the connection has ended.
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

// message passes a published message on to the reader. An error means that the connection
// loses messages.
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
