package gateway

import (
	"encoding/binary"
	"runtime"
	"time"

	"golang.org/x/time/rate"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// What a peer may send beside its messages. The WebSocket library tells nothing of
// fragments, and answers pings by itself, so frames are counted where they come in.
//
// Counted are control frames, PINGs, fragments that do not end a message, and messages
// that were refused. A peer that sends more of them than FRAME_RATE is read no faster than
// that: the rest waits in its own kernel, and costs this process nothing. Whoever goes
// on for 10 s is closed with 4429.
const (
	// freeFragment is the size from which fragments are not counted: MAX_FRAME_BYTES
	// allows 16 of them in a message.
	freeFragment = 1 << 10
	// longestPause bounds one pause of the reading, where the allowance is tiny.
	longestPause = time.Second
	// shortestPause is how long the frames read ahead have to be worth before the reading
	// pauses: waking up for each would cost more than answering it.
	shortestPause = 100 * time.Millisecond
)

// meter counts the frames of a peer that carry no message. It belongs to the goroutine
// that reads, and to parking while there is none.
type meter struct {
	allowance *rate.Limiter
	excess    func() // called for each reading beyond the allowance

	header [14]byte // of the frame that comes in
	have   int      // bytes of it
	skip   uint64   // bytes of payload to come
}

// newMeter makes a meter that allows perSecond frames and burst at once; 0 is no limit.
func newMeter(perSecond float64, burst int) *meter {
	limit := rate.Limit(perSecond)
	if limit == 0 {
		limit = rate.Inf
	}
	return &meter{allowance: rate.NewLimiter(limit, burst)}
}

// pass looks at what was read, and pauses where it holds too many frames.
func (m *meter) pass(p []byte) {
	if n := m.count(p); n > 0 {
		m.spend(n)
	}
}

// spend takes n frames from the allowance, and notes it where they are too many.
func (m *meter) spend(n int) {
	if m.throttle(n) {
		m.excess()
	}
}

// throttle takes n frames from the allowance, and waits until they are allowed. It reports
// whether they were too many.
func (m *meter) throttle(n int) bool {
	now := time.Now()
	var wait time.Duration
	for range n { // one by one: a reservation above the burst would not be made
		wait = m.allowance.ReserveN(now, 1).DelayFrom(now)
	}
	if wait < shortestPause {
		runtime.Gosched() // others first: what the kernel has of a burst would be read in one go
	} else {
		time.Sleep(min(wait, longestPause))
	}
	return wait > 0
}

// count follows the frames in p, and answers with the number of those that are counted.
func (m *meter) count(p []byte) (n int) {
	for len(p) > 0 {
		if m.skip > 0 {
			k := min(m.skip, uint64(len(p)))
			p, m.skip = p[k:], m.skip-k
			continue
		}
		m.header[m.have] = p[0]
		m.have++
		p = p[1:]
		if m.have < headerLen(m.header[:m.have]) {
			continue
		}
		m.have, m.skip = 0, payloadLen(m.header[:])
		if b := m.header[0]; b&0x08 != 0 || b&0x80 == 0 && m.skip < freeFragment {
			n++
		}
	}
	return n
}

// between reports whether nothing of a frame has come that has not come whole.
func (m *meter) between() bool { return m.have == 0 && m.skip == 0 }

// headerLen is the length of a header as far as it is known.
func headerLen(h []byte) int {
	if len(h) < 2 {
		return 2
	}
	n := 2
	switch h[1] & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if h[1]&0x80 != 0 {
		n += 4 // the mask
	}
	return n
}

// payloadLen is the length that a whole header tells.
func payloadLen(h []byte) uint64 {
	switch n := h[1] & 0x7f; n {
	case 126:
		return uint64(binary.BigEndian.Uint16(h[2:]))
	case 127:
		return binary.BigEndian.Uint64(h[2:])
	default:
		return uint64(n)
	}
}

// flood is when a peer sent more than it may.
type flood struct{ began, last time.Duration }

// floodPause without excess ends a flood.
const floodPause = 3 * time.Second

// flooding notes that the peer has just sent more than it may, and closes who has gone
// on with that for 10 s.
func (s *session) flooding() {
	now := s.g.hub.clock()
	if s.in.flood.began == 0 || now-s.in.flood.last > floodPause {
		s.in.flood.began = now
	}
	s.in.flood.last = now
	if now-s.in.flood.began >= wire.FloodPatience {
		s.close(wire.CloseRateLimited)
	}
}
