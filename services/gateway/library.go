package gateway

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// The WebSocket library makes the handshake and reads. What is between it and the
// connection stands here: what it reads is counted, a read of a quiet member ends instead
// of waiting, and its control frames go out through the socket.

// A slim buffer each way: what is read is copied to a pooled buffer at once, and a
// control frame (127 bytes at most) leaves in one write. net/http's own pair would
// cost every connection 8 KiB.
const (
	readBuffer  = 256
	writeBuffer = 160
)

// incoming is what is known of what comes in. The goroutine that reads has it; while there
// is none, parking has meter.
type incoming struct {
	buffer          *bufio.Reader // what the library reads from
	meter           *meter        // of what is no MESSAGE
	flood           flood
	amid            bool // a message has begun and not ended
	cut             bool // the last read of the connection failed
	overtimeGranted bool // the time for the JOIN was over once: see grantOvertime

	malformed uint8 // frames, of which the tenth is the last

	// What came with the handshake, which the library keeps apart from buffer, has not been
	// read; and it begins with a close.
	unread, closes bool
}

// hijacker gives the WebSocket library a socket with slim buffers.
type hijacker struct {
	http.ResponseWriter
	session *session
}

// Hijack takes the connection over with what was read of it ahead.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	_ = nc.SetDeadline(time.Time{}) // those of the HTTP server
	if tcp, ok := nc.(interface{ SetWriteBuffer(bytes int) error }); ok {
		_ = tcp.SetWriteBuffer(kernelBuffer) // where it fails, slow readers are noticed later
	}
	ahead, _ := rw.Reader.Peek(rw.Reader.Buffered())
	var r io.Reader = nc
	if len(ahead) > 0 {
		r = io.MultiReader(bytes.NewReader(bytes.Clone(ahead)), nc)
	}
	h.session.sock = newSocket(nc, &h.session.g.sockets)
	h.session.in.meter.pass(ahead) // once there is a socket: who floods is closed
	lib := libraryConn{nc, h.session}
	br := bufio.NewReaderSize(r, max(readBuffer, len(ahead)))
	_, _ = br.Peek(len(ahead)) // the library reads on from what is buffered
	in := &h.session.in
	in.buffer = br
	in.unread, in.closes = len(ahead) > 0, len(ahead) > 0 && ahead[0]&0x0f == opClose
	return lib, bufio.NewReadWriter(br, bufio.NewWriterSize(lib, writeBuffer)), nil
}

// libraryConn is what the WebSocket library sees of a socket.
type libraryConn struct {
	net.Conn
	session *session
}

// Read counts what it reads. It takes payload in large pieces, but few frames at a time,
// of which the pause would be longer than the longest.
func (c libraryConn) Read(p []byte) (int, error) {
	m := c.session.in.meter
	p = p[:min(uint64(len(p)), min(m.skip, lingerBytes)+readBuffer)] // a header may tell any length
	n, err := c.session.read(p)
	c.session.in.cut = err != nil && !errors.Is(err, errQuiet)
	m.pass(p[:n])
	return n, err
}

// Write takes one control frame of the library.
func (c libraryConn) Write(p []byte) (int, error) {
	s := c.session.sock
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.endingLocked():
	case len(p) > 0 && p[0]&0x0f == opClose:
		if s.echo = bytes.Clone(p); len(p) > 4 && !utf8.Valid(p[4:]) { // the peer's reason
			s.echo = closeFrame(wire.CloseInvalidText)
		}
	default:
		s.sendLocked(p)
	}
	return len(p), nil
}

// Close leaves the connection open: the session ends it, after what waits was sent.
// Where the library wanted to end a read by it, the keeper will.
func (c libraryConn) Close() error { return nil }

// read reads for the WebSocket library. Where a member is quiet, it answers with errQuiet
// instead of waiting: between two frames, where the library can read again later as if
// nothing had happened.
func (s *session) read(p []byte) (int, error) {
	for {
		var n int
		var err error
		if !s.talks.Load() && s.parks() && !s.in.amid && s.in.meter.between() && !s.sock.ending() {
			n, err = s.sock.tryRead(p)
		} else {
			n, err = s.sock.nc.Read(p)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && (s.sock.takeNudge() || s.grantOvertime()) {
			continue
		}
		return n, err
	}
}

// joinOvertime is how much grantOvertime gives.
const joinOvertime = 100 * time.Millisecond

// grantOvertime gives a JOIN a moment more, once: where this process stood still, the end of the
// time for it is noticed before a JOIN that came meanwhile.
func (s *session) grantOvertime() bool {
	if s.in.overtimeGranted || s.leased() || s.sock.ending() {
		return false
	}
	s.in.overtimeGranted = true
	s.sock.readBy(time.Now().Add(joinOvertime))
	return true
}

// tryRead reads what is there already: errQuiet says nothing is.
func (s *socket) tryRead(p []byte) (int, error) {
	n, err := s.tcp.Take(p, 0)
	switch {
	case errors.Is(err, syscall.EAGAIN):
		return 0, errQuiet
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// gone reports whether the peer has broken off, or closes, and said nothing else
// before that is still unread. The reading side calls it, between two messages.
func (s *session) gone() bool {
	switch {
	case s.in.buffer.Buffered() > 0:
		next, _ := s.in.buffer.Peek(1)
		return next[0]&0x0f == opClose
	case s.in.unread:
		return s.in.closes
	case s.sock.tcp == nil:
		return false
	}
	next := make([]byte, 1)
	n, err := s.sock.tcp.Take(next, syscall.MSG_PEEK)
	switch {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, os.ErrDeadlineExceeded):
		return false
	case err != nil:
		return true
	}
	return n == 0 || next[0]&0x0f == opClose
}
