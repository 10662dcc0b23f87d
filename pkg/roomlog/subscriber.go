package roomlog

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
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
	reconnectMin = 50 * time.Millisecond
	reconnectMax = time.Second
)

// Subscriber follows the channels of the rooms that this process has members in, over
// one connection to Redis. It does not trust that connection, nor go-redis' own health
// check, which notices neither a server that accepts and answers nothing nor one that
// answers but no longer gets what is published. It publishes a numbered probe to itself
// every second; when none has come back for 3 s, or one comes and not the one before it,
// it connects anew.
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

// Follow follows a room. The channel is closed once Redis has confirmed that: whatever is
// published from then on reaches the reader. It does not block.
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

// Unfollow stops following a room, however often Follow was called: the caller counts its
// members. It does not block.
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
