// Package toxic is a TCP proxy that makes a network bad on purpose, for tests:
//
//	Refuse    nobody can connect, and existing connections are cut
//	Cut       existing connections are cut; new ones get through
//	Set       latency and bandwidth of all connections
//	HalfOpen  connections stay open and pass nothing on: existing ones, or new ones
//	          too; in one direction, or in both
//	Heal      everything passes again, including what was held back, as in a network
//	          that lost packets for a while
//
// A Proxy listens on loopback, at one address for its life. Its methods may be called
// at any time, from many goroutines.
package toxic

import (
	"errors"
	"net"
	"sync"
	"time"
)

// Direction is which way bytes go.
type Direction int

// The directions.
const (
	Up   Direction = iota // from the client to the server
	Down                  // from the server to the client
)

// Quality is how connections treat what passes, each way. The zero value changes nothing.
type Quality struct {
	Latency   time.Duration
	Bandwidth int // bytes a second of one connection; 0 is no limit
}

// Proxy is one listener in front of one server.
type Proxy struct {
	addr, target string
	listener     net.Listener
	ended        sync.WaitGroup

	mu      sync.Mutex // guards what follows
	closed  bool
	refuse  bool
	quality Quality
	frozen  [2]bool // whether new connections are half-open, by Direction
	links   map[*link]struct{}
}

// link is a client's connection together with the one to the server.
type link struct {
	client, server net.Conn
	gates          [2]*gate
}

// New starts a proxy in front of target, a host:port. Close ends it.
func New(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{addr: l.Addr().String(), target: target, listener: l, links: make(map[*link]struct{})}
	p.ended.Go(p.accept)
	return p, nil
}

// Addr returns the proxy's address, host:port.
func (p *Proxy) Addr() string { return p.addr }

// Close cuts all connections and waits until all goroutines of the proxy have ended.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	_ = p.listener.Close()
	p.Cut()
	p.ended.Wait()
}

// Refuse cuts all connections, and every new one at once, like a server that accepts none.
// The proxy keeps its port, so that nobody else can take it.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	p.refuse = true
	p.mu.Unlock()
	p.Cut()
}

// Cut ends all connections with a reset.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.cut()
	}
}

// Set changes how connections treat what passes, from the next bytes on.
func (p *Proxy) Set(q Quality) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.quality = q
}

// HalfOpen makes connections stay open and pass nothing on in the given directions: existing
// connections and, with newToo, new ones.
func (p *Proxy) HalfOpen(newToo bool, ways ...Direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, way := range ways {
		p.frozen[way] = newToo
		for l := range p.links {
			l.gates[way].shut()
		}
	}
}

// Heal ends Refuse, Set and HalfOpen.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse, p.quality, p.frozen = false, Quality{}, [2]bool{}
	for l := range p.links {
		l.gates[Up].open()
		l.gates[Down].open()
	}
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // for instance out of file descriptors
			continue
		}
		p.ended.Go(func() { p.serve(c) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	if p.refuses() {
		reset(client)
		return
	}
	server, err := net.DialTimeout("tcp", p.target, 2*time.Second)
	if err != nil {
		reset(client)
		return
	}
	l := &link{client: client, server: server, gates: [2]*gate{newGate(), newGate()}}
	defer l.cut()
	if !p.add(l) {
		return
	}
	defer p.remove(l)
	var both sync.WaitGroup
	both.Go(func() { p.pass(l, Up, client, server) })
	both.Go(func() { p.pass(l, Down, server, client) })
	both.Wait()
}

func (p *Proxy) refuses() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refuse || p.closed
}

// add returns false if connections are refused by now.
func (p *Proxy) add(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse || p.closed {
		return false
	}
	for way, frozen := range p.frozen {
		if frozen {
			l.gates[way].shut()
		}
	}
	p.links[l] = struct{}{}
	return true
}

func (p *Proxy) remove(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}

func (p *Proxy) now() Quality {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.quality
}

// cut ends both connections with a reset, and releases those who wait at a gate.
func (l *link) cut() {
	reset(l.client)
	reset(l.server)
	l.gates[Up].end()
	l.gates[Down].end()
}

func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}
