package gateway

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/rawtcp"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

const (
	// pieceSize is what a blocked writer hands to the kernel at a time, and what a member
	// that comes back has to take before it gets more.
	pieceSize = 16 << 10
	// kernelBuffer is what the kernel may hold for a peer, half of what it then takes
	// with its own overhead. By itself it takes up to 4 MiB: of a member that has stopped
	// reading, that is memory which the limit of 256 KiB does not see, and seconds of a
	// busy room in which it would have come back in time for what history has.
	kernelBuffer = 64 << 10
)

// socket is the sending half of a WebSocket. Nothing that is sent blocks: what the
// kernel does not take at once waits, up to 256 KiB, and a goroutine of its own writes
// it. The WebSocket library reads; the control frames that it writes pass through
// here, whole frames each, so they never land within one of ours.
type socket struct {
	// nc is open until phase is phaseOver: whoever closes it sets that first. mu guards both, and
	// the other fields down to drained. What each delivery looks at stands together, since
	// there are many sockets.
	mu     sync.Mutex
	phase  phase
	writer bool           // a goroutine is writing
	code   wire.CloseCode // with which it was closed, 0 for none: also where it was over before
	fd     int            // nc's descriptor while that is open, noFD where it has none; set once
	replay int            // bytes that sendAll waits for: they come on top of the limit

	queue      []byte        // whole frames that wait; the writer holds what it is writing
	writing    int           // bytes that the writer holds
	final      int           // bytes of the close frame
	writeUntil time.Time     // when the writer stops trying to bring the close frame; zero before
	echo       []byte        // the library's answer to the peer's close, held back until the seat is given up
	parked     *session      // that has no goroutine which reads; nil where it has
	nudged     bool          // a read that waited was ended by nudge
	drained    chan struct{} // closed when the writer ends; nil while nobody waits for it

	nc    net.Conn
	tcp   *rawtcp.Conn    // the same, nil where there is no fd
	ended *sync.WaitGroup // counts the goroutines that write
}

// phase says what a socket still sends. It only goes forwards, and may leave some out:
//
//	open ──▶ fenced ──▶ closing ──▶ over
type phase uint8

const (
	phaseOpen    phase = iota // everything
	phaseFenced               // a close frame: the lease has ended
	phaseClosing              // what waits: the close frame was sent or queued, or the peer's end read
	phaseOver                 // nothing: the connection broke, or was ended
)

const noFD = -1

const (
	writeTick     = 500 * time.Millisecond
	closePatience = 5 * time.Second  // for the peer to answer a close frame
	slowPatience  = 30 * time.Second // for a slow reader to come as far as its close frame
	lingerBytes   = 1 << 20          // read of a peer that goes on after our close frame
)

func newSocket(nc net.Conn, ended *sync.WaitGroup) *socket {
	s := &socket{nc: nc, fd: noFD, ended: ended}
	if tcp, ok := rawtcp.Wrap(nc).(*rawtcp.Conn); ok {
		if raw, err := tcp.SyscallConn(); err == nil && raw.Control(func(fd uintptr) { s.fd = int(fd) }) == nil {
			s.nc, s.tcp = tcp, tcp
		}
	}
	return s
}

// tryWriteLocked hands the kernel what it takes at once. An error shows in the next read.
// It goes past package net, whose locks and poller cost a delivery 5 %: the descriptor is
// the connection's as long as that is not over, and what the kernel does not take is written
// by way of package net.
func (s *socket) tryWriteLocked(p []byte) int {
	if s.fd == noFD {
		return 0
	}
	n, _ := rawtcp.Send(s.fd, p)
	return n
}

// send sends frames, or queues what does not go at once. frames is not kept. It
// reports false when nothing is sent any more: the socket was closed, or has more than
// 256 KiB waiting and is being closed with 4508.
func (s *socket) send(frames []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sendLocked(frames)
}

func (s *socket) sendLocked(frames []byte) bool {
	if s.phase != phaseOpen {
		return false
	}
	limit := wire.MaxQueuedBytes + s.replay
	if s.writer {
		if len(s.queue)+s.writing+len(frames) > limit {
			s.closeLocked(wire.CloseSlowConsumer)
			return false
		}
		s.queue = append(s.queue, frames...)
		return true
	}
	n := s.tryWriteLocked(frames)
	if n == len(frames) {
		return true
	}
	begun := endOfFrame(frames, n) // which is finished, whatever becomes of the rest
	s.startWriterLocked(frames[n:begun])
	if len(frames)-n > limit {
		s.closeLocked(wire.CloseSlowConsumer)
		return false
	}
	s.queue = append(s.queue, frames[begun:]...)
	return true
}

// startWriterLocked leaves rest, of one frame that the kernel did not take, to a goroutine.
func (s *socket) startWriterLocked(rest []byte) {
	rest = bytes.Clone(rest)
	s.writer, s.writing = true, len(rest)
	s.ended.Go(func() { s.write(rest) })
}

// write writes piece and then what is queued, until nothing is left.
func (s *socket) write(piece []byte) {
	for s.writePiece(piece) {
		s.mu.Lock()
		if len(s.queue) == 0 {
			s.endWriterLocked()
			_ = s.nc.SetWriteDeadline(time.Time{})
			s.mu.Unlock()
			return
		}
		n := framesUpTo(s.queue, pieceSize)
		piece = append(piece[:0], s.queue[:n]...)
		s.queue = s.queue[:copy(s.queue, s.queue[n:])]
		s.writing = len(piece)
		s.mu.Unlock()
	}
	// What the peer said before it broke off is still to be read, its close for one.
	s.mu.Lock()
	s.phase = phaseOver
	s.endWriterLocked()
	_ = s.nc.SetReadDeadline(time.Now().Add(closePatience))
	s.wakeLocked()
	s.mu.Unlock()
}

func (s *socket) endWriterLocked() {
	s.writer, s.writing, s.queue = false, 0, nil
	if s.drained != nil {
		close(s.drained)
		s.drained = nil
	}
}

// writePiece writes all of p. A peer that takes nothing for 10 s is closed with 4508,
// and has a while to come as far as that. Deadlines are short, since a write that
// waits does not tell when its peer took something last.
func (s *socket) writePiece(p []byte) bool {
	idle := time.Duration(0) // in ticks: a time in which this process stood still is one
	for len(p) > 0 {
		if err := s.nc.SetWriteDeadline(time.Now().Add(writeTick)); err != nil {
			return false
		}
		n, err := s.nc.Write(p)
		p = p[n:]
		switch {
		case n > 0:
			idle = 0
		case err == nil || errors.Is(err, os.ErrDeadlineExceeded):
			if idle += writeTick; idle >= wire.SendTimeout && !s.closeStuck() {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// closeStuck closes the socket with 4508, and reports whether it is worth while to go on
// trying to write.
func (s *socket) closeStuck() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLocked(wire.CloseSlowConsumer)
	return time.Now().Before(s.writeUntil)
}

// sendAll sends frames a piece at a time and waits until the kernel has taken them, as
// long as the peer takes something every 10 s; taken is called for each piece. It
// reports whether the session goes on.
func (s *socket) sendAll(frames []byte, taken func()) bool {
	for len(frames) > 0 {
		n := framesUpTo(frames, pieceSize)
		s.mu.Lock()
		s.replay = n
		if !s.sendLocked(frames[:n]) {
			s.mu.Unlock()
			return false
		}
		s.mu.Unlock()
		s.awaitWriter()
		s.mu.Lock()
		s.replay = 0
		s.mu.Unlock()
		taken()
		frames = frames[n:]
	}
	return s.closeCode() == 0
}

// waits reports whether something waits for the peer to take it.
func (s *socket) waits() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writer
}

// awaitWriter returns once nothing waits to be written. One goroutine calls it.
func (s *socket) awaitWriter() {
	s.mu.Lock()
	if s.writer && s.drained == nil {
		s.drained = make(chan struct{})
	}
	drained := s.drained
	s.mu.Unlock()
	if drained != nil {
		<-drained
	}
}

// closeWith sends a close frame; nothing follows it. The first call counts.
func (s *socket) closeWith(code wire.CloseCode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLocked(code)
}

// closeLocked queues the close frame whatever else waits, and bounds the time in which
// the peer may answer it.
func (s *socket) closeLocked(code wire.CloseCode) {
	if s.code != 0 {
		return
	}
	s.code, s.phase = code, max(s.phase, phaseClosing)
	if code == wire.CloseSlowConsumer || code == wire.CloseLeaseLost {
		s.queue = s.queue[:0] // it will be read from the log
	}
	s.finalLocked(closeFrame(code))
	patience := closePatience
	if s.writer {
		patience += slowPatience
	}
	_ = s.nc.SetReadDeadline(time.Now().Add(patience))
	s.wakeLocked()
}

// finalLocked sends the close frame.
func (s *socket) finalLocked(frame []byte) {
	s.writeUntil = time.Now().Add(slowPatience)
	s.final = len(frame)
	switch {
	case s.phase == phaseOver:
	case s.writer:
		s.queue = append(s.queue, frame...)
	default:
		if n := s.tryWriteLocked(frame); n < len(frame) {
			s.startWriterLocked(frame[n:])
		}
	}
}

// readBy sets until when the session reads, unless the socket was closed: then it has
// a time set already.
func (s *socket) readBy(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.endingLocked() {
		_ = s.nc.SetReadDeadline(t)
	}
}

// fence lets nothing be sent any more but a close frame, and what a writer has in hands.
func (s *socket) fence() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phase = max(s.phase, phaseFenced)
	if last := len(s.queue) - s.final; last > 0 {
		s.queue = s.queue[:copy(s.queue, s.queue[last:])]
	}
}

// ending reports whether the socket was closed by this side, or ended by the peer, or broke.
func (s *socket) ending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endingLocked()
}

func (s *socket) endingLocked() bool { return s.phase >= phaseClosing }

// closeCode answers with the code of the close frame that this side sent, 0 for none.
func (s *socket) closeCode() wire.CloseCode {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.code
}

// answerClose sends the library's answer to the peer's close frame, if it made one.
func (s *socket) answerClose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.code == 0 && s.echo != nil {
		s.code = wire.CloseNormal
		if len(s.echo) >= 4 {
			s.code = wire.CloseCode(binary.BigEndian.Uint16(s.echo[2:]))
		}
		s.phase = max(s.phase, phaseClosing)
		s.finalLocked(s.echo)
	}
}

// finish closes the connection once what waits has been written. Where this side
// closed first and the peer has not answered, it reads on until the peer is done: a
// connection that is closed with something unread is reset, and the close frame with
// it.
func (s *socket) finish(answered bool) {
	s.mu.Lock()
	s.phase = max(s.phase, phaseClosing) // its seat is not kept for a peer that takes long
	s.mu.Unlock()
	s.awaitWriter()
	s.mu.Lock()
	linger := s.code != 0 && s.phase != phaseOver && !answered
	s.phase = phaseOver
	if linger {
		_ = s.nc.SetReadDeadline(time.Now().Add(closePatience))
	}
	s.mu.Unlock()
	if linger {
		if half, ok := s.nc.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
		_, _ = io.CopyN(io.Discard, s.nc, lingerBytes)
	}
	_ = s.nc.Close()
}

// abort cuts the connection off: what waits is lost.
func (s *socket) abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phase = phaseOver // nobody parks it again
	s.wakeLocked()      // before the descriptor is another socket's
	_ = s.nc.Close()
}
