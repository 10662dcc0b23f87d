package sim

import (
	"bytes"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"time"
)

// stream is one direction of a connection. What src writes reaches dst after a latency, and
// not while either of them is paused or the way between them is blocked. A write blocks only
// where the stream has a limit: to a user. The others are as if the kernel's buffers were large
// enough.
type stream struct {
	n        *network
	src, dst *host
	name     string
	limit    int     // bytes that it holds until they are read; 0 for no limit
	offered  int     // bytes that onWrite has seen and the stream has not taken; owned by the writer
	reader   *pace   // of the user who reads it; nil for a process
	writes   int     // so far; the number seeds the latency of each write
	prompt   int     // the first writes, up to this number, arrive at once
	back     *stream // the other direction of the connection

	// Guarded by n.mu.
	subscribed bool          // it carries a subscription
	slow       time.Duration // added to the latency
	deaf       bool          // what is written is lost without notice
	lost       []byte        // what was lost that way
	hung       bool          // what is written does not arrive for now
	changed    *sync.Cond
	chunks     []chunk
	last       time.Time // when the newest chunk arrives
	reset      bool      // the connection broke: reads and writes fail
	breakNext  bool      // the connection breaks at the next write, which is lost
	closed     bool      // the reader closed it
	ended      bool      // the writer closed it
	sipAt      time.Time // when a slow reader takes something again,
	sip        int       // and how many bytes until then
	readBy     time.Time
	writeBy    time.Time
	onWrite    func(p []byte) // called with what is written, at the time of the write
}

// pace is how a user reads. Guarded by network.mu.
type pace struct {
	slow  int // how many faults make the user slow now
	bytes int // taken every second while it is slow; 0 for none
}

// chunk is the data of one write. A chunk without data is the end of the stream.
type chunk struct {
	at   time.Time
	data []byte
	held bool // its sender was paused: the chunk leaves when the sender resumes
}

func newStream(n *network, src, dst *host, name string) *stream {
	s := &stream{n: n, src: src, dst: dst, name: name}
	s.changed = sync.NewCond(&n.mu)
	n.streams[s] = struct{}{}
	return s
}

func late(by time.Time) bool { return !by.IsZero() && !time.Now().Before(by) }

func (s *stream) read(p []byte) (int, error) {
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	for {
		switch {
		case s.closed || s.dst.dead:
			return 0, net.ErrClosed
		case s.reset:
			return 0, errReset
		case late(s.readBy):
			return 0, os.ErrDeadlineExceeded
		}
		if len(s.chunks) > 0 && !s.hung && !s.n.blockedLocked(s.src, s.dst) {
			head := &s.chunks[0]
			if wait := time.Until(head.at); wait > 0 {
				if !head.held {
					s.n.wakeAt(head.at, s)
				}
			} else {
				if head.data == nil {
					return 0, io.EOF
				}
				if n := copy(p[:min(len(p), s.appetiteLocked())], head.data); n > 0 {
					s.takenLocked(n)
					return n, nil
				}
			}
		}
		s.changed.Wait()
	}
}

// appetiteLocked returns how many bytes the reader takes now.
func (s *stream) appetiteLocked() int {
	if s.reader == nil || s.reader.slow == 0 {
		return math.MaxInt
	}
	if now := time.Now(); s.reader.bytes > 0 && !now.Before(s.sipAt) {
		s.sip, s.sipAt = s.reader.bytes, now.Add(time.Second)
		s.n.wakeAt(s.sipAt, s)
	}
	return s.sip
}

// takenLocked removes what was read.
func (s *stream) takenLocked(n int) {
	s.sip = max(s.sip-n, 0)
	if head := &s.chunks[0]; n < len(head.data) {
		head.data = head.data[n:]
	} else {
		s.chunks = s.chunks[1:]
	}
	if s.limit > 0 {
		s.changed.Broadcast() // the writer may wait
	}
}

// write writes p. onWrite sees each byte once, when it is first offered.
func (s *stream) write(p []byte) (n int, err error) {
	if s.onWrite != nil && len(p) > s.offered {
		s.onWrite(p[s.offered:])
	}
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	for {
		part, err := s.offerLocked(p[n:])
		n += part
		if err != nil || n == len(p) {
			s.offered = len(p) - n
			return n, err
		}
		s.changed.Wait()
	}
}

// offerLocked writes as much of p as the stream takes now.
func (s *stream) offerLocked(p []byte) (int, error) {
	switch {
	case s.ended || s.src.dead:
		return 0, net.ErrClosed
	case s.reset:
		return 0, errReset
	case late(s.writeBy):
		return 0, os.ErrDeadlineExceeded
	}
	if s.breakNext {
		s.reset, s.chunks = true, nil
		s.changed.Broadcast()
		return 0, errReset
	}
	if bytes.Contains(p, []byte("\r\nsubscribe\r\n")) {
		s.back.subscribed = true
	}
	switch {
	case len(p) == 0 || s.closed || s.dst.dead:
	case s.deaf:
		s.lost = append(s.lost, p...)
	default:
		if p = p[:min(len(p), s.spaceLocked())]; len(p) > 0 {
			s.sendLocked(append([]byte{}, p...))
		}
	}
	return len(p), nil
}

// spaceLocked returns how many bytes more the stream takes.
func (s *stream) spaceLocked() int {
	if s.limit == 0 {
		return math.MaxInt
	}
	space := s.limit
	for _, c := range s.chunks {
		space -= len(c.data)
	}
	return space
}

// hearAgainLocked ends deafness. A TCP connection does not lose data and go on, though one
// through a proxy may. The gateway notices such a loss only by a missing probe, so if data
// but no probe was lost, the connection breaks.
func (s *stream) hearAgainLocked() {
	if len(s.lost) > 0 && !bytes.Contains(s.lost, []byte("ar:probe:")) {
		cutLocked(s)
	}
	s.deaf, s.lost = false, nil
}

// sendLocked sends data; nil is the end of the stream.
func (s *stream) sendLocked(data []byte) {
	s.writes++
	c := chunk{data: data, held: s.src.paused > 0}
	if c.held {
		c.at = time.Now().Add(forever)
	} else {
		c.at = time.Now()
		if s.writes > s.prompt {
			c.at = c.at.Add(s.n.latency(s.name, s.writes))
		}
		c.at = later(c.at.Add(s.slow), s.last)
		s.last = c.at
	}
	s.chunks = append(s.chunks, c)
	s.changed.Broadcast()
}

// releaseLocked sends what the sender wrote while it was paused.
func (s *stream) releaseLocked() {
	for i := range s.chunks {
		if c := &s.chunks[i]; c.held {
			c.held = false
			c.at = time.Now().Add(s.n.latency(s.name, s.writes))
			s.last = c.at
		}
	}
}

// end is the writer's close: the reader gets what is on its way, and then EOF.
func (s *stream) end() {
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	if !s.ended && !s.src.dead {
		s.sendLocked(nil)
	}
	s.ended = true
	s.changed.Broadcast()
}

// shut is the reader's close.
func (s *stream) shut() {
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	s.closed = true
	s.changed.Broadcast()
}

// by sets a deadline, and makes all waiters look again, now and at that time.
func (s *stream) by(field *time.Time, t time.Time) {
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	*field = t
	s.changed.Broadcast()
	if !t.IsZero() {
		s.n.wakeAt(t, s)
	}
}

// conn is one end of a connection.
type conn struct {
	r, w *stream
	once sync.Once
	gone func() // called once, when this end is closed
}

// connect makes a connection between two hosts; name seeds its latencies.
func connect(n *network, a, b *host, name string) (atA, atB *conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	up, down := newStream(n, a, b, name+">"), newStream(n, b, a, name+"<")
	up.back, down.back = down, up
	atA, atB = &conn{r: down, w: up}, &conn{r: up, w: down}
	left := 2
	forget := func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if left--; left == 0 {
			delete(n.streams, up)
			delete(n.streams, down)
		}
	}
	atA.gone, atB.gone = forget, forget
	return atA, atB
}

func (c *conn) Read(p []byte) (int, error)  { return c.r.read(p) }
func (c *conn) Write(p []byte) (int, error) { return c.w.write(p) }
func (c *conn) LocalAddr() net.Addr         { return memory(c.w.src.name) }
func (c *conn) RemoteAddr() net.Addr        { return memory(c.w.dst.name) }

func (c *conn) Close() error {
	c.once.Do(func() {
		c.w.end()
		c.r.shut()
		c.gone()
	})
	return nil
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.r.by(&c.r.readBy, t)
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.w.by(&c.w.writeBy, t)
	return nil
}

func (c *conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// memory is the address of a host.
type memory string

func (memory) Network() string  { return "memory" }
func (a memory) String() string { return string(a) }
