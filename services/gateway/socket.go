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
	// pieceSize is how many bytes a blocked writer hands to the kernel at a time, and how many a
	// member that comes back must take before it is sent more.
	pieceSize = 16 << 10
	// kernelBuffer is the size of the send buffer that the kernel is asked for; the kernel doubles
	// it for its own overhead. Left alone, the kernel would buffer up to 4 MiB for a peer. If a
	// member has stopped reading, that is memory which socket.limit does not see. It would
	// also delay the close by seconds, and in a busy room the history might then no longer reach
	// back to what the member missed.
	kernelBuffer = 64 << 10
)

// socket sends on a WebSocket, and knows whether and how that ends. Deliveries never block: what
// the kernel does not take at once is queued, up to a limit, and written by a goroutine that
// lives only as long as something is queued. The control frames that the WebSocket library
// writes pass through the socket as whole frames, so they never end up inside one of ours. Who
// reads is told in reading.go.
type socket struct {
	// nc is open until phase is phaseOver: whoever closes nc sets phase first. mu guards that and
	// the other fields down to drained. The fields that each delivery reads are grouped, since
	// there are many sockets.
	mu     sync.Mutex
	phase  phase
	writer bool           // a goroutine is writing
	code   wire.CloseCode // of the close, 0 for none; set even if the connection was over before
	fd     int            // nc's descriptor, valid while nc is open; noFD if it has none; set once
	limit  int            // bytes that may wait to be sent, and on top what sendAll waits for

	queue      []byte        // whole frames that wait, without what the writer is writing
	writing    int           // bytes that the writer is writing
	final      int           // length of the close frame in bytes; 0 before
	writeUntil time.Time     // when the writer gives up on the close frame; zero before there is one
	echo       []byte        // the library's answer to the peer's close, held back until the seat is given up
	parked     *session      // the session while it is parked; nil while a goroutine reads
	nudged     bool          // nudge was called, and takeNudge has not seen it yet
	drained    chan struct{} // closed when the writer ends; nil while nothing waits for that

	nc    net.Conn
	tcp   *rawtcp.Conn    // the same as nc; nil if there is no fd
	ended *sync.WaitGroup // counts the goroutines that write
}

// phase says what a socket still sends. It only moves forward, and may skip phases:
//
//	open ──▶ fenced ──▶ closing ──▶ over
type phase uint8

const (
	phaseOpen    phase = iota // everything
	phaseFenced               // only a close frame: the lease has ended
	phaseClosing              // only what is queued: the close frame was sent or queued, or the peer's end was read
	phaseOver                 // nothing: the connection broke or was closed
)

const noFD = -1

const (
	writeTick     = 500 * time.Millisecond
	closePatience = 5 * time.Second  // for the peer to answer a close frame
	slowPatience  = 30 * time.Second // for a slow reader to take everything up to its close frame
	lingerBytes   = 1 << 20          // to be read of a peer that goes on sending after our close frame
)

// newSocket makes the socket of a connection. limit is how many bytes may wait to be sent; more
// close it as a slow reader.
func newSocket(nc net.Conn, limit int, ended *sync.WaitGroup) *socket {
	s := &socket{nc: nc, fd: noFD, limit: limit, ended: ended}
	if tcp, ok := rawtcp.Wrap(nc).(*rawtcp.Conn); ok {
		if raw, err := tcp.SyscallConn(); err == nil && raw.Control(func(fd uintptr) { s.fd = int(fd) }) == nil {
			s.nc, s.tcp = tcp, tcp
		}
	}
	return s
}

// tryWriteLocked hands p to the kernel and returns how many bytes the kernel took at once. An
// error shows in the next read. It bypasses package net, whose locks and poller would cost 5 %
// of a delivery. That is safe because the descriptor stays the connection's until phase is
// phaseOver. What the kernel does not take at once is written through package net.
func (s *socket) tryWriteLocked(p []byte) int {
	if s.fd == noFD {
		return 0
	}
	n, _ := rawtcp.Send(s.fd, p)
	return n
}

// send sends frames, and queues what the kernel does not take at once. It does not keep
// frames. It reports false if nothing is sent any more: the socket was fenced or closed, or
// more waits than may wait, and it is now closed with 4508.
func (s *socket) send(frames []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sendLocked(frames)
}

func (s *socket) sendLocked(frames []byte) bool {
	if s.phase != phaseOpen {
		return false
	}
	if s.writer {
		if len(s.queue)+s.writing+len(frames) > s.limit {
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
	begun := endOfFrame(frames, n) // the frame that n lies in is finished, whatever becomes of the rest
	s.startWriterLocked(frames[n:begun])
	if len(frames)-n > s.limit {
		s.closeLocked(wire.CloseSlowConsumer)
		return false
	}
	s.queue = append(s.queue, frames[begun:]...)
	return true
}

// startWriterLocked starts the writer with rest, which is the part of a frame that the kernel
// did not take.
func (s *socket) startWriterLocked(rest []byte) {
	rest = bytes.Clone(rest)
	s.writer, s.writing = true, len(rest)
	s.ended.Go(func() { s.write(rest) })
}

// write is the writer. It writes piece and then what is queued, until the queue is empty.
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
	// The connection broke, or the peer did not take the close frame in time. What it sent before
	// that, such as its own close frame, is still read.
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

// writePiece writes all of p and reports whether it could. A peer that takes nothing for 10 s
// is closed with 4508, and then gets slowPatience to take the close frame. The write deadlines
// are short because a write that blocks does not tell when the peer last took something.
func (s *socket) writePiece(p []byte) bool {
	idle := time.Duration(0) // in ticks: a stall of this process counts as one, however long
	for len(p) > 0 {
		if err := s.nc.SetWriteDeadline(time.Now().Add(writeTick)); err != nil || s.overdue() {
			return false
		}
		n, err := s.nc.Write(p)
		p = p[n:]
		switch {
		case n > 0:
			idle = 0
		case err == nil || errors.Is(err, os.ErrDeadlineExceeded):
			if idle += writeTick; idle >= wire.SendTimeout {
				s.closeWith(wire.CloseSlowConsumer)
			}
		default:
			return false
		}
	}
	return true
}

// overdue reports whether the peer has had its time to take the close frame.
func (s *socket) overdue() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.writeUntil.IsZero() && time.Now().After(s.writeUntil)
}

// sendAll sends frames one piece at a time, and waits after each until the kernel has taken
// it. A peer that takes nothing for 10 s is closed, see writePiece. It calls taken after each
// piece. It reports whether the session goes on.
func (s *socket) sendAll(frames []byte, taken func()) bool {
	for len(frames) > 0 {
		n := framesUpTo(frames, pieceSize)
		s.raiseLimit(n)
		sent := s.send(frames[:n])
		if sent {
			s.awaitWriter()
		}
		s.raiseLimit(-n)
		if !sent {
			return false
		}
		taken()
		frames = frames[n:]
	}
	return s.closeCode() == 0
}

func (s *socket) raiseLimit(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit += n
}

// waits reports whether something waits for the peer to take it.
func (s *socket) waits() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writer
}

// awaitWriter returns once nothing waits to be written. Only the goroutine that reads calls
// it.
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

// closeWith sends a close frame, after which nothing is sent. Only the first call has an
// effect.
func (s *socket) closeWith(code wire.CloseCode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLocked(code)
}

// closeLocked sends or queues the close frame, however much is queued already, and limits the
// time that the peer has to answer it.
func (s *socket) closeLocked(code wire.CloseCode) {
	if s.code != 0 {
		return
	}
	s.code, s.phase = code, max(s.phase, phaseClosing)
	if code == wire.CloseSlowConsumer || code == wire.CloseLeaseLost {
		s.queue = s.queue[:0] // the client reads it from the log when it rejoins
	}
	s.finalLocked(closeFrame(code))
	patience := closePatience
	if s.writer {
		patience += slowPatience
	}
	_ = s.nc.SetReadDeadline(time.Now().Add(patience))
	s.wakeLocked()
}

// finalLocked sends or queues the close frame.
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

// readBy sets the read deadline, unless the socket is ending: then one is set already.
func (s *socket) readBy(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.endingLocked() {
		_ = s.nc.SetReadDeadline(t)
	}
}

// fence stops all sending, except for a close frame and what the writer is writing already.
func (s *socket) fence() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phase = max(s.phase, phaseFenced)
	if last := len(s.queue) - s.final; last > 0 {
		s.queue = s.queue[:copy(s.queue, s.queue[last:])]
	}
}

// ending reports whether this side closed the socket, the peer ended it, or it broke.
func (s *socket) ending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endingLocked()
}

func (s *socket) endingLocked() bool { return s.phase >= phaseClosing }

// closeCode returns the code that the socket was closed with, 0 for none.
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

// finish closes the connection once what is queued has been written. If this side closed first
// and the peer has not answered, it reads until the peer is done: closing a connection that
// has unread data resets it, and the close frame may be lost.
func (s *socket) finish(answered bool) {
	s.mu.Lock()
	s.phase = max(s.phase, phaseClosing) // no more renewals: a slow peer must not keep the seat
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

// abort closes the connection at once. What is queued is lost.
func (s *socket) abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phase = phaseOver // so that it is not parked again
	s.wakeLocked()      // before the descriptor can belong to another socket
	_ = s.nc.Close()
}
