// Package memnet is a network in memory, for tests: listeners by name, connections
// with buffers and deadlines as sockets have them, and links whose faults a test
// chooses.
//
//	n := memnet.New()
//	l := n.Listen("redis")                    // a net.Listener
//	c, err := n.Dial(ctx, "gateway-1", "redis")
//	n.Link("gateway-1", "redis").Stall(true)  // and Refuse, Cut
//
// All of it works on the virtual clock of testing/synctest: whoever waits is durably
// blocked, and there is no goroutine of its own. Unlike net.Pipe, connections hold
// Buffer bytes in flight each way; unlike grpc's bufconn, a deadline that is taken
// back while its timer fires does not count, and net/http takes one back with every
// upgrade.
package memnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// Buffer is how many bytes a connection holds in flight each way.
const Buffer = 64 << 10

// Errors of connections that a test broke.
var (
	ErrRefused = errors.New("memnet: connection refused")
	ErrReset   = errors.New("memnet: connection reset by peer")
)

// Network is a network in memory. Its methods may be called from many goroutines.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*listener
	links     map[[2]string]*Link
}

// New makes a network without anybody in it.
func New() *Network {
	return &Network{listeners: make(map[string]*listener), links: make(map[[2]string]*Link)}
}

// Listen listens under a name, until the listener is closed; then the name is free again.
func (n *Network) Listen(name string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[name] != nil {
		return nil, fmt.Errorf("memnet: %s listens already", name)
	}
	l := &listener{network: n, name: name, conns: make(chan net.Conn), done: make(chan struct{})}
	n.listeners[name] = l
	return l, nil
}

// Link is what lies between who dials and who listens.
func (n *Network) Link(from, to string) *Link {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.linkLocked(from, to)
}

func (n *Network) linkLocked(from, to string) *Link {
	name := [2]string{from, to}
	l := n.links[name]
	if l == nil {
		l = &Link{pairs: make(map[*pair]struct{})}
		n.links[name] = l
	}
	return l
}

// Dial connects. It waits for as long as the link is stalled, or nobody accepts.
func (n *Network) Dial(ctx context.Context, from, to string) (net.Conn, error) {
	n.mu.Lock()
	listener, link := n.listeners[to], n.linkLocked(from, to)
	n.mu.Unlock()
	if listener == nil {
		return nil, &net.OpError{Op: "dial", Net: "memory", Addr: Addr(to), Err: ErrRefused}
	}
	c, s, err := link.connect(Addr(from), Addr(to))
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "memory", Addr: Addr(to), Err: err}
	}
	select {
	case listener.conns <- s:
		return c, nil
	case <-listener.done:
		err = ErrRefused
	case <-ctx.Done():
		err = ctx.Err()
	}
	_ = c.Close()
	_ = s.Close()
	return nil, &net.OpError{Op: "dial", Net: "memory", Addr: Addr(to), Err: err}
}

// Addr is the name of an end.
type Addr string

// Network answers "memory".
func (Addr) Network() string { return "memory" }

func (a Addr) String() string { return string(a) }

type listener struct {
	network *Network
	name    string
	conns   chan net.Conn
	done    chan struct{}
	once    sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.network.mu.Lock()
		delete(l.network.listeners, l.name)
		l.network.mu.Unlock()
	})
	return nil
}

func (l *listener) Addr() net.Addr { return Addr(l.name) }

// Link is all connections from one end to another, those of the future included.
type Link struct {
	mu      sync.Mutex
	refused bool
	forth   bool // stalled from who dialed
	back    bool // stalled to who dialed
	pairs   map[*pair]struct{}
}

type pair struct{ a, b *Conn }

func (l *Link) connect(from, to Addr) (*Conn, *Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refused {
		return nil, nil, ErrRefused
	}
	forth, back := newStream(l.forth), newStream(l.back)
	p := &pair{
		a: &Conn{in: back, out: forth, local: from, remote: to},
		b: &Conn{in: forth, out: back, local: to, remote: from},
	}
	l.pairs[p] = struct{}{}
	closed := func() {
		if p.a.closed() && p.b.closed() {
			l.mu.Lock()
			delete(l.pairs, p)
			l.mu.Unlock()
		}
	}
	p.a.onClose, p.b.onClose = closed, closed
	return p.a, p.b, nil
}

// Refuse makes new connections fail; those that there are go on.
func (l *Link) Refuse(refuse bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused = refuse
}

// Stall holds up what is sent, both ways, as a partition or a paused process does:
// nothing is lost, and it arrives once the link goes on.
func (l *Link) Stall(stall bool) { l.StallWays(stall, stall) }

// StallWays is Stall for each way: forth from who dialed, and back. With back alone, a
// server does what it is asked for, and its answers do not come.
func (l *Link) StallWays(forth, back bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forth, l.back = forth, back
	for p := range l.pairs {
		p.a.out.stall(forth)
		p.a.in.stall(back)
	}
}

// Cut resets the connections that there are. What was on its way is lost.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.pairs {
		p.a.in.reset()
		p.a.out.reset()
	}
}

// Open is how many connections there are that not both ends have closed.
func (l *Link) Open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pairs)
}
