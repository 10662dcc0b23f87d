package gateway

import (
	"encoding/binary"
	"runtime"
	"time"

	"golang.org/x/time/rate"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// Limits on what a peer may send besides its messages. The WebSocket library does not report
// fragments and answers pings by itself, so the frames are counted as their bytes are read.
//
// What counts are control frames, PINGs, fragments that do not end a message, and messages
// that were refused. A peer that sends more of them than FRAME_RATE is read no faster than
// that: the rest waits in its own kernel and costs this process nothing. A peer that goes on
// for 10 s is closed with 4429.
const (
	// freeFragment is the size in bytes from which fragments are not counted: MAX_FRAME_BYTES
	// allows 16 of them in a message.
	freeFragment = 1 << 10
	// longestPause limits how long the reading pauses at a time, for when the allowance is tiny.
	longestPause = time.Second
	// shortestPause is the shortest pause that is worth sleeping for. Shorter ones add up until
	// then: to wake up for each frame would cost more than to answer it.
	shortestPause = 100 * time.Millisecond
)

// meter counts and limits the frames of a peer that carry no message. The goroutine that reads
// owns it, and parking while there is none.
type meter struct {
	allowance *rate.Limiter
	excess    func() // called by spend if the frames are beyond the allowance

	header [14]byte // of the frame that is being read
	have   int      // bytes of the header so far
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

// pass counts the frames in p, which was just read, and pauses if there were too many.
func (m *meter) pass(p []byte) {
	if n := m.count(p); n > 0 {
		m.spend(n)
	}
}

// spend takes n frames from the allowance like throttle, and calls excess if they are too
// many.
func (m *meter) spend(n int) {
	if m.throttle(n) {
		m.excess()
	}
}

// throttle takes n frames from the allowance. If they are allowed only after shortestPause or
// more, it sleeps until then, at most for longestPause; otherwise it only yields. It reports
// whether they were too many.
func (m *meter) throttle(n int) bool {
	now := time.Now()
	var wait time.Duration
	for range n { // one by one: the limiter never allows more than the burst at once
		wait = m.allowance.ReserveN(now, 1).DelayFrom(now)
	}
	if wait < shortestPause {
		runtime.Gosched() // let others run first: or a burst that the kernel holds would be read in one go
	} else {
		time.Sleep(min(wait, longestPause))
	}
	return wait > 0
}

// count follows the frames in p and returns how many of them count.
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

// between reports whether the last frame read is complete and no other has begun.
func (m *meter) between() bool { return m.have == 0 && m.skip == 0 }

// headerLen returns the length of a header of which h is the beginning, as far as h tells.
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

// payloadLen returns the length of the payload after a complete header.
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

// flood records when a peer began to exceed its limits, and when it did last.
type flood struct{ began, last time.Duration }

// floodPause is how long a peer must not exceed its limits for a flood to be over.
const floodPause = 3 * time.Second

// flooding notes that the peer has just exceeded a limit. It closes a peer that has gone on
// for 10 s.
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
