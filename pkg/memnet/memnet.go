// Package memnet is an in-memory network for tests. It has listeners with names, connections
// with buffers and deadlines like those of sockets, and links with faults that a test
// chooses.
//
//	n := memnet.New()
//	l, err := n.Listen("redis")               // a net.Listener
//	c, err := n.Dial(ctx, "gateway-1", "redis")
//	n.Link("gateway-1", "redis").Stall(true)  // and Refuse, Cut
//
// All of it works on the virtual clock of testing/synctest: a goroutine that waits is durably
// blocked, and the package starts no goroutines. Unlike net.Pipe, a connection holds Buffer
// bytes in flight each way. Unlike grpc's bufconn, a deadline that is removed while its timer
// fires has no effect; net/http removes one at every upgrade.
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

// New makes an empty network.
func New() *Network {
	return &Network{listeners: make(map[string]*listener), links: make(map[[2]string]*Link)}
}

// Listen listens under a name. The name is free again when the listener is closed.
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

// Link returns the link from a dialer's name to a listener's name.
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

// Dial connects. It waits until the listener accepts.
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

// Addr is the name of one end of a connection.
type Addr string

// Network returns "memory".
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

// Link is all connections from one name to another, future ones included.
type Link struct {
	mu      sync.Mutex
	refused bool
	forth   bool // data from the dialer is stalled
	back    bool // data to the dialer is stalled
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

// Refuse makes new connections fail. Existing ones go on.
func (l *Link) Refuse(refuse bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused = refuse
}

// Stall holds up what is sent in both directions, as a partition or a paused process does.
// Nothing is lost: it arrives once the link goes on.
func (l *Link) Stall(stall bool) { l.StallWays(stall, stall) }

// StallWays is Stall for each direction: forth from the dialer, and back to it. With back
// alone, a server carries out requests, but its replies do not arrive.
func (l *Link) StallWays(forth, back bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forth, l.back = forth, back
	for p := range l.pairs {
		p.a.out.stall(forth)
		p.a.in.stall(back)
	}
}

// Cut resets the existing connections. What was on its way is lost.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.pairs {
		p.a.in.reset()
		p.a.out.reset()
	}
}

// Open returns the number of connections that have not been closed by both ends.
func (l *Link) Open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pairs)
}
