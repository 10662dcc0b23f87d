package sim

import (
	"context"
	"errors"
	"hash/fnv"
	"net"
	"strconv"
	"sync"
	"time"
)

// forever is longer than any simulation.
const forever = 1000 * time.Hour

// Each write has a latency of its own, at least latencyMin and less than latencySpread more.
// So hardly any two things happen at the same instant, and what a seed does hardly depends on
// the order in which Go runs goroutines.
const (
	latencyMin    = 20 * time.Microsecond
	latencySpread = 900 * time.Microsecond
)

var (
	errReset   = errors.New("connection reset by peer")
	errRefused = errors.New("connection refused")
)

// host is a process on the network.
type host struct {
	name string

	// Guarded by network.mu.
	paused  int  // how many faults pause it now
	dead    bool // its process has ended
	silent  bool // it is dead, and its peers were not told
	refuses int  // how many faults make it refuse connections now
}

// network connects hosts, and knows which faults lie between them.
type network struct {
	seed uint64

	mu      sync.Mutex // guards all below, every host and every stream
	streams map[*stream]struct{}
	blocked map[[2]*host]int // ways that are blocked → by how many faults
	dials   map[string]int   // how many connections were made, by their two hosts
	calm    chan struct{}    // closed and replaced when a way may be free again
}

func newNetwork(seed uint64) *network {
	return &network{
		seed: seed, streams: make(map[*stream]struct{}), blocked: make(map[[2]*host]int),
		dials: make(map[string]int), calm: make(chan struct{}),
	}
}

// chance returns a number that depends only on the seed and its purpose.
func (n *network) chance(what string, count int) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(strconv.FormatUint(n.seed, 36) + what + strconv.Itoa(count)))
	v := h.Sum64() // FNV's upper bits hardly mix: finish as splitmix does
	v = (v ^ v>>30) * 0xbf58476d1ce4e5b9
	v = (v ^ v>>27) * 0x94d049bb133111eb
	return v ^ v>>31
}

func (n *network) latency(what string, count int) time.Duration {
	return latencyMin + time.Duration(n.chance(what, count)%uint64(latencySpread))
}

func (n *network) blockedLocked(a, b *host) bool {
	return n.blocked[[2]*host{a, b}] > 0 || b.paused > 0
}

// wakeAt makes the waiters of a stream look again at the time t.
func (n *network) wakeAt(t time.Time, s *stream) {
	time.AfterFunc(time.Until(t), func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		s.changed.Broadcast()
	})
}

// changedLocked makes all waiters look again.
func (n *network) changedLocked() {
	close(n.calm)
	n.calm = make(chan struct{})
	for s := range n.streams {
		s.changed.Broadcast()
	}
}

// passage waits until something can go from a to b. It returns errRefused if b is known to
// be gone or refuses connections, and the error of ctx if that ends first.
func (n *network) passage(ctx context.Context, a, b *host) error {
	for {
		n.mu.Lock()
		calm := n.calm
		var err error
		free := false
		switch {
		case a.dead:
			err = net.ErrClosed
		case b.dead && !b.silent, b.refuses > 0:
			err = errRefused
		case !b.dead && a.paused == 0 && !n.blockedLocked(a, b):
			free = true
		}
		n.mu.Unlock()
		if err != nil || free {
			return err
		}
		select {
		case <-calm:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// arrived waits until nothing that a has sent is held up on its way to b. What a process
// has sent before it died still arrives.
func (n *network) arrived(ctx context.Context, a, b *host) {
	for {
		n.mu.Lock()
		calm := n.calm
		free := !n.blockedLocked(a, b) && (a.dead || a.paused == 0)
		n.mu.Unlock()
		if free {
			return
		}
		select {
		case <-calm:
		case <-ctx.Done():
			return
		}
	}
}

// pause stops a host: nothing leaves it and nothing reaches it, until resume is called.
func (n *network) pause(h *host) (resume func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h.paused++
	n.hangUpLocked(h)
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if h.paused--; h.paused == 0 {
			for s := range n.streams {
				if s.src == h {
					s.releaseLocked()
				}
			}
		}
		n.changedLocked()
	}
}

// block stops everything between two hosts, both ways, until free is called.
func (n *network) block(a, b *host) (free func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	ways := [][2]*host{{a, b}, {b, a}}
	for _, way := range ways {
		n.blocked[way]++
	}
	n.hangUpLocked(a)
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, way := range ways {
			n.blocked[way]--
		}
		n.changedLocked()
	}
}

// refuse makes a host refuse connections until accept is called, and cuts those it has.
func (n *network) refuse(h *host) (accept func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h.refuses++
	n.cutLocked(func(s *stream) bool { return s.src == h || s.dst == h })
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		h.refuses--
		n.changedLocked()
	}
}

// cut breaks the connections between two hosts. What is on its way is lost.
func (n *network) cut(a, b *host) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cutLocked(func(s *stream) bool { return s.src == a && s.dst == b || s.src == b && s.dst == a })
}

func (n *network) cutLocked(which func(*stream) bool) {
	for s := range n.streams {
		if which(s) {
			s.breakLocked()
		}
	}
	n.changedLocked()
}

// subscriptions calls do for the streams that bring a process what is published, and returns
// those streams.
func (n *network) subscriptions(h *host, do func(*stream)) (found []*stream) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for s := range n.streams {
		if s.dst == h && s.subscribed {
			found = append(found, s)
			do(s)
		}
	}
	n.changedLocked()
	return found
}

func (s *stream) breakLocked() { s.reset, s.chunks = true, nil }

// cutLocked breaks a connection both ways.
func cutLocked(s *stream) {
	s.breakLocked()
	s.back.breakLocked()
}

// keepAlive is when TCP gives up a connection whose peer answers nothing: after 15 s, and nine
// probes 15 s apart.
const keepAlive = 150 * time.Second

// kill ends a host. Its peers see their connections end, at once or, if silent is set, after
// keepAlive. What it has sent before still arrives.
func (n *network) kill(h *host, silent bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h.dead, h.silent = true, silent
	if silent {
		time.AfterFunc(keepAlive, func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.cutLocked(func(s *stream) bool { return s.src == h || s.dst == h })
		})
	}
	for s := range n.streams {
		switch {
		case s.src == h && silent:
			s.chunks = onTheWay(s.chunks)
		case s.src == h:
			s.chunks = append(onTheWay(s.chunks), chunk{at: later(time.Now(), s.last)})
		case s.dst == h && !silent:
			s.reset, s.chunks = true, nil
		}
	}
	n.changedLocked()
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func onTheWay(chunks []chunk) []chunk {
	for i := range chunks {
		if chunks[i].held {
			return chunks[:i]
		}
	}
	return chunks
}

// greeting is how many writes go each way over a connection to Redis before go-redis
// considers it established.
const greeting = 2

// dialRedis connects a process to Redis without waiting for anything: go-redis holds a mutex
// while it connects its subscription, and in a bubble time stands still while another
// goroutine waits for a mutex. So if nothing can pass now, the dial fails at once.
func (n *network) dialRedis(a, redis *host, accept func(net.Conn) error) (net.Conn, error) {
	at, cancel := context.WithCancel(context.Background())
	cancel()
	return n.dial(at, a, redis, func(c net.Conn) error {
		n.mu.Lock()
		c.(*conn).r.prompt, c.(*conn).w.prompt = greeting, greeting
		n.mu.Unlock()
		return accept(c)
	})
}

// hangUpLocked breaks the connections of a whose greeting a new fault would hold up, for the
// same reason.
func (n *network) hangUpLocked(a *host) {
	n.cutLocked(func(s *stream) bool { return s.prompt > 0 && s.writes == 0 && (s.src == a || s.dst == a) })
}

// dial connects a to b. accept takes b's end of the connection.
func (n *network) dial(ctx context.Context, a, b *host, accept func(net.Conn) error) (net.Conn, error) {
	if err := n.passage(ctx, a, b); err != nil {
		return nil, &net.OpError{Op: "dial", Net: "memory", Addr: memory(b.name), Err: err}
	}
	n.mu.Lock()
	way := a.name + "-" + b.name
	n.dials[way]++
	name := way + "#" + strconv.Itoa(n.dials[way])
	n.mu.Unlock()
	ours, theirs := connect(n, a, b, name)
	if err := accept(theirs); err != nil {
		_ = ours.Close()
		_ = theirs.Close()
		return nil, &net.OpError{Op: "dial", Net: "memory", Addr: memory(b.name), Err: err}
	}
	return ours, nil
}

// listener is where an HTTP server waits for connections.
type listener struct {
	name  string
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newListener(name string) *listener {
	return &listener{name: name, conns: make(chan net.Conn, 64), done: make(chan struct{})}
}

// Accept waits for a connection.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr is the host's name.
func (l *listener) Addr() net.Addr { return memory(l.name) }

func (l *listener) offer(c net.Conn) error {
	select {
	case <-l.done:
		return errRefused
	case l.conns <- c:
		return nil
	}
}
