package roomlog_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/anteroom-chat/anteroom/pkg/redistest"
	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// reader records what a subscriber delivers.
type reader struct {
	events chan roomlog.Event
	again  chan string // rooms resubscribed

	mu    sync.Mutex
	rooms map[string]int // number of events by room
}

func newReader() *reader {
	return &reader{events: make(chan roomlog.Event, 10_000), again: make(chan string, 10_000), rooms: make(map[string]int)}
}

func (r *reader) Event(roomID string, e roomlog.Event) {
	r.mu.Lock()
	r.rooms[roomID]++
	r.mu.Unlock()
	r.events <- e
}

func (r *reader) Resubscribed(roomID string) { r.again <- roomID }

func (r *reader) of(roomID string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rooms[roomID]
}

// subscriber runs a subscriber until the test ends.
func (f *fixture) subscriber(rdb *redis.Client) (*roomlog.Subscriber, *reader) {
	r := newReader()
	s := roomlog.NewSubscriber(rdb, f.layout, r)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	f.Cleanup(func() { cancel(); running.Wait() })
	return s, r
}

func (f *fixture) subscribe(s *roomlog.Subscriber, roomID string) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.ctx, patience)
	defer cancel()
	f.must(s.Subscribe(ctx, roomID))
}

func next[T any](f *fixture, from <-chan T) T {
	f.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		f.Fatalf("nothing came for %v", patience)
		panic("unreachable")
	}
}

func TestWhatIsPublishedAfterSubscribeReturnsReachesTheReader(t *testing.T) {
	each(t, func(f *fixture) {
		s, r := f.subscriber(f.rdb)
		f.subscribe(s, "r")
		f.subscribe(s, "r") // the second time returns at once
		for i := range int64(20) {
			f.publish(message("", "1"))
			e := next(f, r.events)
			if e.Kind != roomlog.KindMessage || e.Seq != i+1 || e.Epoch != "e1" || len(r.again) != 0 {
				f.Fatalf("%+v", e)
			}
			if i == 0 && string(e.Data) != string(f.read(1, 1).Entries[0].Frame) {
				f.Fatalf("published %s, read %s", e.Data, f.read(1, 1).Entries[0].Frame)
			}
		}
		s.Unfollow("r")
		f.eventually("nobody follows the room", func() bool {
			return f.rdb.PubSubNumSub(f.ctx, f.layout.Keys("r").Channel()).Val()[f.layout.Keys("r").Channel()] == 0
		})
	})
}

func TestRedisTimeGoesOnAndIsNeverEarly(t *testing.T) {
	each(t, func(f *fixture) {
		start, err := f.rdb.Time(f.ctx).Result()
		f.must(err)
		s, _ := f.subscriber(f.rdb)
		next(f, s.ClockKnown())
		got := s.RedisTime()
		after, err := f.rdb.Time(f.ctx).Result()
		f.must(err)
		if got.Before(start) || got.After(after) {
			f.Fatalf("it is %v, between %v and %v by Redis", got, start, after)
		}
		f.eventually("it goes on", func() bool { return s.RedisTime().After(got) })
	})
}

func TestSubscribeFailsWithItsContextAndCanBeUndone(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	f := newFixture(t, redistest.Client(t, server.URL()))
	server.Stop()
	s, _ := f.subscriber(f.rdb)
	ctx, cancel := context.WithTimeout(f.ctx, 20*time.Millisecond)
	defer cancel()
	if err := s.Subscribe(ctx, "r"); wire.CodeOf(err) != wire.Unavailable {
		f.Fatal(err)
	}
	s.Unfollow("r")
	server.Start()
	f.subscribe(s, "other")
	channel := f.layout.Keys("r").Channel()
	if n := f.rdb.PubSubNumSub(f.ctx, channel).Val()[channel]; n != 0 {
		f.Fatalf("%d subscriptions that nobody wants", n)
	}
}

func TestAKilledConnectionIsMadeAgainAndSaysSo(t *testing.T) {
	t.Parallel()
	f := newFixture(t, redistest.Client(t, redistest.Server(t).URL()))
	s, r := f.subscriber(f.rdb)
	f.subscribe(s, "r")
	f.subscribe(s, "other")
	for range 3 {
		f.must(f.rdb.ClientKillByFilter(f.ctx, "TYPE", "pubsub").Err())
		rooms := map[string]bool{next(f, r.again): true, next(f, r.again): true}
		if !rooms["r"] || !rooms["other"] {
			f.Fatalf("resubscribed %v", rooms)
		}
		f.publish(message("", "1"))
		next(f, r.events)
	}
}

// node answers INFO, which the embedded Redis does not support, so that it can pretend to be
// different Redis servers.
type node struct {
	id    atomic.Value
	asked atomic.Int64
}

func (*node) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (*node) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (n *node) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		for _, cmd := range cmds {
			if info, ok := cmd.(*redis.StringCmd); ok && cmd.Name() == "info" {
				n.asked.Add(1)
				info.SetErr(nil)
				info.SetVal(fmt.Sprintf("# Server\r\nrun_id:%s\r\n", n.id.Load()))
			}
		}
		return err
	}
}

// After a failover the old Redis may live on as a replica. Its subscriptions stay open and
// deliver what is published on the new one.
func TestAnotherRedisIsSubscribedToAnewThoughTheOldOneGoesOn(t *testing.T) {
	t.Parallel()
	f := newFixture(t, redistest.Client(t, "redis://"+redistest.Embedded(t).Addr()))
	n := &node{}
	n.id.Store("one")
	f.rdb.AddHook(n)
	s, r := f.subscriber(f.rdb)
	f.subscribe(s, "r")
	f.eventually("the same Redis answers probes", func() bool { return n.asked.Load() >= 3 })
	if len(r.again) > 0 {
		t.Fatal("subscribed again to the same Redis")
	}
	n.id.Store("two")
	next(f, r.again)
	f.publish(message("", "1"))
	next(f, r.events)
}

func TestTheSubscriberComesBackAfterARestartOfRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	f := newFixture(t, redistest.Client(t, server.URL()))
	s, r := f.subscriber(f.rdb)
	f.subscribe(s, "r")
	server.Stop()
	server.Start()
	if id := next(f, r.again); id != "r" {
		f.Fatalf("resubscribed %q", id)
	}
	f.makeRoom("r")
	f.publish(message("", "1"))
	next(f, r.events)
}

// halfOpen is a proxy between a client and Redis. It can swallow what the current connections
// carry, without closing them.
type halfOpen struct {
	net.Listener
	generation atomic.Int64 // traffic on connections of earlier generations is swallowed
	deaf       atomic.Bool  // only published messages are swallowed
	unheard    atomic.Int64 // how many messages were swallowed
	wg         sync.WaitGroup
	mu         sync.Mutex
	open       []net.Conn
}

func newHalfOpen(f *fixture, socket string) *halfOpen {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	f.must(err)
	h := &halfOpen{Listener: l}
	h.wg.Go(func() {
		for {
			front, err := l.Accept()
			if err != nil {
				return
			}
			back, err := net.Dial("unix", socket)
			if err != nil {
				_ = front.Close()
				continue
			}
			h.mu.Lock()
			h.open = append(h.open, front, back)
			h.mu.Unlock()
			generation := h.generation.Load()
			h.wg.Go(func() { h.carry(front, back, generation) })
			h.wg.Go(func() { h.carry(back, front, generation) })
		}
	})
	f.Cleanup(func() {
		_ = l.Close()
		h.mu.Lock()
		for _, c := range h.open {
			_ = c.Close()
		}
		h.mu.Unlock()
		h.wg.Wait()
	})
	return h
}

func (h *halfOpen) carry(from, to net.Conn, generation int64) {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if err != nil {
			break
		}
		switch {
		case h.generation.Load() != generation:
		case h.deaf.Load() && bytes.Contains(buf[:n], []byte("\r\nmessage\r\n")):
			h.unheard.Add(1)
		default:
			_, err = to.Write(buf[:n])
		}
		if err != nil {
			break
		}
	}
	if h.generation.Load() == generation {
		_ = to.Close()
	}
}

// followed returns a room "r" whose subscription goes through a proxy.
func followed(t *testing.T) (*fixture, *halfOpen, *reader) {
	server := redistest.Server(t)
	f := newFixture(t, redistest.Client(t, server.URL()))
	between := newHalfOpen(f, server.Socket())
	s, r := f.subscriber(redistest.Client(t, "redis://"+between.Addr().String()))
	f.subscribe(s, "r")
	return f, between, r
}

func TestAConnectionThatCarriesNothingIsNoticedWithinFiveSeconds(t *testing.T) {
	t.Parallel()
	f, between, r := followed(t)
	between.generation.Add(1)
	began := time.Now()
	next(f, r.again)
	if took := time.Since(began); took < roomlog.ProbePatience-2*time.Second || took > roomlog.ProbePatience+4*time.Second {
		f.Errorf("noticed after %v", took)
	}
	f.publish(message("", "1"))
	next(f, r.events)
}

func TestASubscriptionThatLostSomethingInBetweenIsMadeAgain(t *testing.T) {
	t.Parallel()
	f, between, r := followed(t)
	f.makeRoom("r")
	for range 3 {
		between.deaf.Store(true)
		lost := between.unheard.Load() + 2 // this message and a probe
		f.publish(message("", "1"))
		f.eventually("a probe is lost too", func() bool { return between.unheard.Load() >= lost })
		between.deaf.Store(false)
		next(f, r.again)
		if len(r.events) > 0 {
			t.Fatal("what was swallowed came")
		}
		f.publish(message("", "2"))
		next(f, r.events)
	}
}

// A caller that needs one of many idle connections would find each of them dead in turn,
// after 3 s each.
func TestConnectionsThatWereIdleForASecondAreNotTrusted(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	f := newFixture(t, redistest.Client(t, server.URL()))
	between := newHalfOpen(f, server.Socket())
	rdb := redistest.Client(t, "redis://"+between.Addr().String())
	var busy []*redis.Conn
	for range 8 {
		c := rdb.Conn()
		f.must(c.Ping(f.ctx).Err())
		busy = append(busy, c)
	}
	for _, c := range busy {
		f.must(c.Close())
	}
	if idle := rdb.PoolStats().IdleConns; idle < 8 {
		f.Fatalf("%d idle connections, wanted 8", idle)
	}
	between.generation.Add(1)
	time.Sleep(time.Second) // the idle time itself
	f.must(rdb.Ping(f.ctx).Err())
}

func TestTheDelayBeforeAConnectionDoublesUnlessTheLastOneLived(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct{ last, lived, want time.Duration }{
		{0, 0, 50 * ms},
		{50 * ms, ms, 100 * ms},
		{800 * ms, ms, time.Second},
		{time.Second, ms, time.Second},
		{100 * ms, 950 * ms, 50 * ms}, // for example, killed once a second
		{time.Second, 3 * time.Second, 50 * ms},
	} {
		if got := roomlog.DelayAfter(c.last, c.lived); got != c.want {
			t.Errorf("%v after %v, the connection lived for %v: want %v", got, c.last, c.lived, c.want)
		}
	}
}

// A message may arrive late, but never in a room that is not followed, and it must arrive in
// a room that is.
func TestComingAndGoingLeavesEachRoomAsItsLastCallSays(t *testing.T) {
	each(t, func(f *fixture) {
		s, r := f.subscriber(f.rdb)
		seed := rand.Uint64()
		f.Logf("seed %d", seed)
		const rooms = 8
		follows := make([]bool, rooms)
		var workers sync.WaitGroup
		for i := range rooms { // each room belongs to one goroutine, as in a gateway's hub
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			id := fmt.Sprintf("room%d", i)
			workers.Go(func() {
				for range 100 {
					if follows[i] {
						s.Unfollow(id)
						follows[i] = false
						continue
					}
					timeout := patience
					if rng.IntN(3) == 0 {
						timeout = time.Duration(rng.IntN(500)) * time.Microsecond
					}
					ctx, cancel := context.WithTimeout(f.ctx, timeout)
					err := s.Subscribe(ctx, id)
					cancel()
					if err != nil {
						s.Unfollow(id)
						continue
					}
					follows[i] = true
					if rng.IntN(4) == 0 { // confirmed: what is published now arrives
						before := r.of(id)
						f.must(f.rdb.Publish(f.ctx, f.layout.Keys(id).Channel(), "o e1 0 1").Err())
						f.eventually("the event arrives", func() bool { return r.of(id) > before })
					}
				}
			})
		}
		workers.Wait()
		for i := range rooms {
			channel := f.layout.Keys(fmt.Sprintf("room%d", i)).Channel()
			want := int64(0)
			if follows[i] {
				want = 1
			}
			f.eventually(fmt.Sprintf("room%d has %d subscriptions", i, want), func() bool {
				return f.rdb.PubSubNumSub(f.ctx, channel).Val()[channel] == want
			})
		}
		if len(r.again) != 0 {
			f.Error("resubscribed, though the connection never broke")
		}
	})
}

func TestRunEndsWithItsContextAndLeavesNothingBehind(t *testing.T) {
	server := redistest.Server(t)
	rdb := redistest.Client(t, server.URL())
	before := goleak.IgnoreCurrent()
	for _, up := range []bool{true, false} {
		if !up {
			server.Stop()
		}
		s := roomlog.NewSubscriber(rdb, roomlog.Layout{Partitions: 4}, newReader())
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() { s.Run(ctx); close(ended) }()
		if up {
			if err := s.Subscribe(ctx, "r"); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatal("Run goes on after its context has ended")
		}
	}
	goleak.VerifyNone(t, before)
}

func TestWhatIsNoEventIsIgnored(t *testing.T) {
	each(t, func(f *fixture) {
		s, r := f.subscriber(f.rdb)
		f.subscribe(s, "r")
		f.must(f.rdb.Publish(f.ctx, f.layout.Keys("r").Channel(), "nonsense").Err())
		f.publish(message("", "1"))
		if e := next(f, r.events); e.Seq != 1 {
			f.Fatalf("%+v", e)
		}
	})
}

// If the first attempt to send a probe is slow, the probe is published twice, and the second
// copy may arrive first.
func TestAProbeThatComesAgainLaterIsNoLoss(t *testing.T) {
	s := roomlog.NewSubscriber(nil, roomlog.Layout{Partitions: 1}, nil)
	for _, number := range []string{"1", "2", "3", "1", "4"} {
		if err := s.Probed(number); err != nil {
			t.Error(err)
		}
	}
	if s.Probed("6") == nil {
		t.Error("5 is missing, and nobody says so")
	}
}
