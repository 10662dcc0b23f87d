package gateway

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// A slim buffer each way: what is read is copied to a pooled buffer at once, and a
// control frame (127 bytes at most) leaves in one write. net/http's own pair would
// cost every connection 8 KiB.
const (
	readBuffer  = 256
	writeBuffer = 160
	pieceSize   = 16 << 10 // what a blocked writer hands to the kernel at a time
)

// socket is the sending half of a WebSocket. Nothing that is sent blocks: what the
// kernel does not take at once waits, up to 256 KiB, and a goroutine of its own writes
// it. The WebSocket library reads; the control frames that it writes pass through
// here, whole frames each, so they never land within one of ours.
type socket struct {
	nc    net.Conn
	raw   syscall.RawConn // nil where the connection has no file descriptor
	ended *sync.WaitGroup // counts the goroutines that write

	// attempt is tryWrite's closure, made once; attempted and taken are its
	// parameters, guarded by mu.
	attempt   func(fd uintptr) bool
	attempted []byte
	taken     int

	mu      sync.Mutex
	queue   []byte         // whole frames that wait; the writer holds what it is writing
	writing int            // bytes that the writer holds
	writer  bool           // a goroutine is writing
	code    wire.CloseCode // of the close frame that was sent or queued: nothing follows it
	echo    []byte         // the library's answer to the peer's close, held back until the seat is given up
	hangUp  bool           // close the connection once everything is written
	drained chan struct{}  // closed when the writer ends; nil while nobody waits for it
}

func newSocket(nc net.Conn, ended *sync.WaitGroup) *socket {
	s := &socket{nc: nc, ended: ended}
	if sc, ok := nc.(syscall.Conn); ok {
		s.raw, _ = sc.SyscallConn()
	}
	s.attempt = func(fd uintptr) bool {
		n, err := syscall.Write(int(fd), s.attempted)
		if err == nil {
			s.taken = n
		}
		return true // whatever came of it: never wait
	}
	return s
}

// tryWrite hands the kernel what it takes at once. An error shows in the next read.
func (s *socket) tryWrite(p []byte) int {
	if s.raw == nil {
		return 0
	}
	s.attempted, s.taken = p, 0
	_ = s.raw.Write(s.attempt)
	s.attempted = nil
	return s.taken
}

// send sends frames, or queues what does not go at once. frames is not kept. It
// reports false when nothing is sent any more: the socket was closed, or has more than
// 256 KiB waiting and is being closed with 4508.
func (s *socket) send(frames []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.code == 0 && s.sendLocked(frames)
}

func (s *socket) sendLocked(frames []byte) bool {
	if s.writer {
		if len(s.queue)+s.writing+len(frames) > wire.MaxQueuedBytes {
			s.queue = closeFrame(wire.CloseSlowConsumer)
			s.code = wire.CloseSlowConsumer
			_ = s.nc.SetReadDeadline(time.Now().Add(wire.SendTimeout + closePatience))
			return false
		}
		s.queue = append(s.queue, frames...)
		return true
	}
	n := s.tryWrite(frames)
	if n < len(frames) {
		rest := bytes.Clone(frames[n:])
		s.writer, s.writing = true, len(rest)
		s.ended.Go(func() { s.write(rest) })
	}
	return true
}

// write writes piece and then what is queued, until nothing is left.
func (s *socket) write(piece []byte) {
	for {
		if !s.writePiece(piece) {
			_ = s.nc.Close() // ends the reader
			s.mu.Lock()
			if s.code == 0 {
				s.code = wire.CloseSlowConsumer
			}
			s.endWriterLocked()
			s.mu.Unlock()
			return
		}
		s.mu.Lock()
		if len(s.queue) == 0 {
			s.endWriterLocked()
			hangUp := s.hangUp
			s.mu.Unlock()
			if hangUp {
				_ = s.nc.Close()
			}
			return
		}
		n := framesUpTo(s.queue, pieceSize)
		piece = append(piece[:0], s.queue[:n]...)
		s.queue = s.queue[:copy(s.queue, s.queue[n:])]
		s.writing = len(piece)
		s.mu.Unlock()
	}
}

func (s *socket) endWriterLocked() {
	s.writer, s.writing, s.queue = false, 0, nil
	if s.drained != nil {
		close(s.drained)
		s.drained = nil
	}
}

// sendAll sends frames and waits until the kernel has taken all that is queued, as
// long as the peer takes something every 10 s. It reports whether the session goes on.
func (s *socket) sendAll(frames []byte) bool {
	if !s.send(frames) {
		return false
	}
	s.mu.Lock()
	if s.writer && s.drained == nil {
		s.drained = make(chan struct{})
	}
	drained := s.drained
	s.mu.Unlock()
	if drained != nil {
		<-drained
	}
	return s.closed() == 0
}

// writePiece writes all of p as long as the peer takes something every 10 s.
func (s *socket) writePiece(p []byte) bool {
	for len(p) > 0 {
		if err := s.nc.SetWriteDeadline(time.Now().Add(wire.SendTimeout)); err != nil {
			return false
		}
		n, err := s.nc.Write(p)
		p = p[n:]
		if err != nil && (n == 0 || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return false
		}
	}
	return true
}

// closeWith sends a close frame; nothing follows it. The first call counts. The peer
// has 5 s to answer.
func (s *socket) closeWith(code wire.CloseCode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.code != 0 {
		return
	}
	s.sendLocked(closeFrame(code))
	s.code = code
	_ = s.nc.SetReadDeadline(time.Now().Add(closePatience))
}

// closePatience is how long a peer may take to answer a close frame.
const closePatience = 5 * time.Second

// closed answers with the code of the close frame that this side sent, 0 for none.
func (s *socket) closed() wire.CloseCode {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.code
}

// answerClose sends the library's answer to the peer's close frame, if it made one.
func (s *socket) answerClose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.code == 0 && s.echo != nil {
		s.sendLocked(s.echo)
		s.code = wire.CloseCode(binary.BigEndian.Uint16(append(s.echo[2:], 0x03, 0xe8)))
	}
}

// end closes the connection once what waits has been written.
func (s *socket) end() {
	s.mu.Lock()
	waits := s.writer
	s.hangUp = true
	s.mu.Unlock()
	if !waits {
		_ = s.nc.Close()
	}
}

// abort cuts the connection off: what waits is lost.
func (s *socket) abort() { _ = s.nc.Close() }

// libraryConn is what the WebSocket library sees of a socket.
type libraryConn struct {
	net.Conn
	s *socket
}

// Write takes one control frame of the library.
func (c libraryConn) Write(p []byte) (int, error) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.code != 0:
	case len(p) > 0 && p[0]&0x0f == opClose:
		s.echo = bytes.Clone(p)
	default:
		s.sendLocked(p)
	}
	return len(p), nil
}

// Close leaves the connection open: the session ends it, after what waits was sent.
func (c libraryConn) Close() error { return nil }

// hijacker gives the WebSocket library a socket with slim buffers.
type hijacker struct {
	http.ResponseWriter
	ended  *sync.WaitGroup
	socket *socket
}

// Hijack takes the connection over with what was read of it ahead.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	_ = nc.SetDeadline(time.Time{}) // those of the HTTP server
	ahead, _ := rw.Reader.Peek(rw.Reader.Buffered())
	var r io.Reader = nc
	if len(ahead) > 0 {
		r = io.MultiReader(bytes.NewReader(bytes.Clone(ahead)), nc)
	}
	h.socket = newSocket(nc, h.ended)
	lib := libraryConn{nc, h.socket}
	br := bufio.NewReaderSize(r, max(readBuffer, len(ahead)))
	_, _ = br.Peek(len(ahead)) // the library reads on from what is buffered
	return lib, bufio.NewReadWriter(br, bufio.NewWriterSize(lib, writeBuffer)), nil
}
