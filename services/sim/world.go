package sim

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/pipeline"
	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
	"github.com/anteroom-chat/anteroom/services/gateway"
	"github.com/anteroom-chat/anteroom/services/gateway/httpapi"
	"github.com/anteroom-chat/anteroom/services/gateway/identity"
	"github.com/anteroom-chat/anteroom/services/gateway/origin"
	"github.com/anteroom-chat/anteroom/services/room"
	"github.com/anteroom-chat/anteroom/services/room/redisstore"
)

// balancerPatience is how long a room service that died silently still gets calls, until the
// keep-alive of its clients notices (package rpc: 15 s and 5 s).
const balancerPatience = 20 * time.Second

// identityKey signs the users' identities.
const identityKey = "0123456789abcdef0123456789abcdef"

// world is everything that a simulation consists of.
type world struct {
	plan    Plan
	cfg     Config
	layout  roomlog.Layout
	started time.Time
	ctx     context.Context // ends with the simulation
	end     context.CancelFunc

	net     *network
	redis   *miniredis.Miniredis
	store   *host     // Redis as a process
	scripts scripts   // loaded into it
	hooked  sync.Once // sets the hook at the first connection: only then has the store a server
	users   *host     // the host of all users

	signer  *identity.Signer
	origins *origin.Policy
	people  []*user

	history    history
	truth      *truth
	log        *logs
	background sync.WaitGroup // goroutines that run until the end
	acting     sync.WaitGroup // operations of users

	mu        sync.Mutex
	rooms     []*roomService // by slot
	gateways  []*gatewayNode // by slot
	made      int            // processes so far, to give each a name of its own
	turn      int            // whose turn it is among the room services
	died      map[*host]time.Time
	struck    map[string]int // faults, by kind
	done      map[string]int // operations, by kind and outcome
	reached   map[string]int // see reach.go
	found     []Violation
	undecided int
	span      time.Duration // of virtual time, once it is over
	trace     []string
}

// gatewayNode is one gateway process.
type gatewayNode struct {
	host     *host
	rooms    *roomsConn
	listener *listener
	close    func() // ends it and waits for its end
}

func newWorld(p Plan, c Config) (*world, error) {
	ctx, end := context.WithCancel(context.Background())
	w := &world{
		plan: p, cfg: c, layout: roomlog.Layout{Partitions: p.Partitions}, started: time.Now(), ctx: ctx, end: end,
		net: newNetwork(p.Seed), redis: miniredis.NewMiniRedis(),
		store: &host{name: "redis"}, users: &host{name: "users"},
		died: make(map[*host]time.Time), struck: make(map[string]int), done: make(map[string]int), reached: make(map[string]int),
	}
	w.redis.ClockTTL(true)
	w.truth, w.log = newTruth(w), newLogs(w)
	w.scripts.ran = w.ran
	var err error
	if w.signer, err = identity.NewSigner([]byte(identityKey), 0); err != nil {
		return nil, err
	}
	if w.origins, err = origin.Parse(""); err != nil {
		return nil, err
	}
	for i := range max(c.Users, p.users()) {
		u, err := newUser(w, i)
		if err != nil {
			return nil, err
		}
		w.people = append(w.people, u)
	}
	return w, w.start()
}

// start starts the checker of logs, and then the processes.
func (w *world) start() error {
	if err := w.log.follow(); err != nil {
		return err
	}
	w.rooms = make([]*roomService, w.cfg.Rooms)
	w.gateways = make([]*gatewayNode, w.cfg.Gateways)
	for i := range w.rooms {
		w.startRooms(i)
	}
	for i := range w.gateways {
		if err := w.startGateway(i); err != nil {
			return err
		}
	}
	return nil
}

// now returns the time since the simulation's start.
func (w *world) now() time.Duration { return time.Since(w.started) }

func (w *world) host(kind string, slot int) *host {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.made++
	return &host{name: fmt.Sprintf("%s%d-%d", kind, slot, w.made)}
}

// redisClient returns the client with which the process h talks to Redis.
func (w *world) redisClient(h *host) *redis.Client {
	return redis.NewClient(roomlog.Tune(&redis.Options{
		Addr: "redis:6379",
		// Large enough that nobody waits for a connection: go-redis reuses the timers of such
		// waits in all clients of the process, and a timer must not go to another bubble.
		PoolSize: 500,
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			return w.net.dialRedis(h, w.store, w.serveRedis)
		},
	}))
}

// serveRedis connects one end of a connection to the embedded store.
func (w *world) serveRedis(theirs net.Conn) error {
	inside, err := w.redis.Dial()
	if err != nil {
		return err
	}
	w.hooked.Do(func() { w.redis.Server().SetPreHook(w.scripts.hook(w.redis.Server())) })
	theirs.(*conn).w.onWrite = func(answer []byte) {
		if bytes.Contains(answer, []byte("Error compiling script")) { // miniredis says so also if the script fails as it runs
			w.tell("script", "%s", answer)
		}
	}
	pump := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		_ = to.Close()
		_ = from.Close()
	}
	w.background.Go(func() { pump(inside, theirs) })
	w.background.Go(func() { pump(theirs, inside) })
	return nil
}

func (w *world) startRooms(slot int) {
	h := w.host("rooms", slot)
	rdb := w.redisClient(h)
	scripts := pipeline.New(rdb)
	store, publisher := redisstore.New(rdb, scripts, w.layout), roomlog.NewPublisher(scripts, w.layout)
	alive, stop := context.WithCancel(context.Background())
	var reaper sync.WaitGroup
	reaper.Go(func() { room.Reap(alive, store) })
	s := &roomService{
		w: w, host: h, alive: alive, srv: room.NewService(store, publisher),
		close: sync.OnceFunc(func() {
			stop()
			reaper.Wait()
			scripts.Close()
			_ = rdb.Close()
		}),
	}
	w.mu.Lock()
	w.rooms[slot] = s
	w.mu.Unlock()
}

func (w *world) startGateway(slot int) error {
	h := w.host("gateway", slot)
	rdb := w.redisClient(h)
	rooms := newRoomsConn(w, h)
	g, err := gateway.New(gateway.Config{
		ID: h.name, Redis: rdb, Layout: w.layout, Rooms: roomv1.NewRoomServiceClient(rooms),
		Identities: w.signer, Origins: w.origins, MessageRate: 20, MessageBurst: 40, WalkIn: true,
		Refuse: httpapi.Refuse,
	})
	if err != nil {
		return err
	}
	l := newListener(h.name)
	srv := &http.Server{Handler: g, ReadHeaderTimeout: 5 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	w.background.Go(func() { _ = srv.Serve(l) })
	node := &gatewayNode{host: h, rooms: rooms, listener: l, close: sync.OnceFunc(func() {
		_ = l.Close()
		_ = srv.Close()
		g.Close()
		_ = rdb.Close()
	})}
	w.mu.Lock()
	w.gateways[slot] = node
	w.mu.Unlock()
	return nil
}

func (w *world) gateway(slot int) *gatewayNode {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gateways[slot%len(w.gateways)]
}

func (w *world) roomService(slot int) *roomService {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rooms[slot%len(w.rooms)]
}

// pickRooms returns the room service to which the balancer gives the next call, nil if it
// knows of none.
func (w *world) pickRooms() *roomService {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range w.rooms {
		w.turn++
		s := w.rooms[w.turn%len(w.rooms)]
		at, dead := w.died[s.host]
		if !dead || s.host.silent && time.Since(at) < balancerPatience {
			return s
		}
	}
	return nil
}

// userBuffer is how many bytes a connection holds that its user has not read. The kernels of
// both ends hold more, but less makes a slow reader felt with fewer messages.
const userBuffer = 16 << 10

// dialGateway connects a user to a gateway, whose host name is g and its slot.
func (w *world) dialGateway(ctx context.Context, u *user, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	defer context.AfterFunc(w.ctx, cancel)()
	name, _, _ := net.SplitHostPort(addr)
	var slot int
	if _, err := fmt.Sscanf(name, "g%d", &slot); err != nil {
		return nil, fmt.Errorf("dial %q: %w", addr, err)
	}
	g := w.gateway(slot)
	return w.net.dial(ctx, w.users, g.host, func(c net.Conn) error {
		down := c.(*conn).w
		down.onWrite, down.limit, down.reader = newFrames(w).wrote, userBuffer, &u.pace
		return g.listener.offer(c)
	})
}

// stop ends everything, senders before receivers, and waits for the end.
func (w *world) stop() {
	w.end()
	for _, u := range w.people {
		u.cut()
	}
	w.acting.Wait()
	for _, u := range w.people {
		u.client.CloseIdleConnections()
	}
	for _, g := range w.gateways {
		g.close()
	}
	for _, s := range w.rooms {
		s.close()
	}
	w.log.close()
	w.redis.Close()
	w.background.Wait()
}

// tell records a violation.
func (w *world) tell(rule, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.found) < 20 { // one cause can show many times
		w.found = append(w.found, Violation{At: cmp.Or(w.span, w.now()), Rule: rule, Text: fmt.Sprintf(format, args...)})
	}
}

// note records a line of the trace.
func (w *world) note(format string, args ...any) {
	if !w.cfg.Trace {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trace = append(w.trace, fmt.Sprintf("%11.4fs  %s", w.now().Seconds(), fmt.Sprintf(format, args...)))
}

func (w *world) count(what map[string]int, key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	what[key]++
}
