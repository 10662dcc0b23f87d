package toxic

import (
	"net"
	"sync"
	"time"
)

const (
	pieceBytes = 16 << 10
	// onTheWay is how many pieces a slow connection holds: with latency, many are on their
	// way at once.
	onTheWay = 256
)

// piece is some bytes on their way.
type piece struct {
	bytes []byte
	due   time.Time
}

// pass carries bytes one way until either side ends. It passes the end on after the bytes.
func (p *Proxy) pass(l *link, way Direction, from, to net.Conn) {
	pieces := make(chan piece, onTheWay)
	var writing sync.WaitGroup
	writing.Go(func() {
		p.write(l.gates[way], pieces, to)
		for range pieces { // so that the loop below, which reads, never blocks
		}
	})
	for {
		buf := make([]byte, pieceBytes)
		n, err := from.Read(buf)
		if n > 0 {
			pieces <- piece{buf[:n], time.Now().Add(p.now().Latency)}
		}
		if err != nil {
			break
		}
	}
	close(pieces)
	writing.Wait()
	// A half-open network does not pass the end on either: write has waited at the gate.
	if half, ok := to.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
}

// write writes pieces when they are due, the gate is open, and the bandwidth allows.
func (p *Proxy) write(g *gate, pieces <-chan piece, to net.Conn) {
	for next := range pieces {
		time.Sleep(time.Until(next.due))
		if !g.wait() {
			return
		}
		if _, err := to.Write(next.bytes); err != nil {
			return
		}
		if limit := p.now().Bandwidth; limit > 0 {
			time.Sleep(time.Duration(len(next.bytes)) * time.Second / time.Duration(limit))
		}
	}
	g.wait()
}

// gate makes callers of wait wait while it is shut.
type gate struct {
	mu     sync.Mutex // guards what follows
	opened chan struct{}
	isOpen bool
	ended  bool
}

func newGate() *gate {
	g := &gate{opened: make(chan struct{}), isOpen: true}
	close(g.opened)
	return g
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isOpen && !g.ended {
		g.isOpen, g.opened = false, make(chan struct{})
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.isOpen {
		g.isOpen = true
		close(g.opened)
	}
}

// end releases all waiters, which must not pass anything on any more.
func (g *gate) end() {
	g.mu.Lock()
	g.ended = true
	g.mu.Unlock()
	g.open()
}

// wait returns once the gate is open. It returns false if the gate has ended.
func (g *gate) wait() bool {
	g.mu.Lock()
	opened := g.opened
	g.mu.Unlock()
	<-opened
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.ended
}
