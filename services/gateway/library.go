package gateway

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// The WebSocket library performs the handshake and reads. This file is what lies between the
// library and the connection: it counts the frames that the library reads, ends a read of a
// quiet member instead of waiting, and sends the library's control frames through the socket.

// The sizes of the library's buffers in bytes. Small buffers are enough: what is read is
// copied to a pooled buffer at once, and a control frame (127 bytes at most) goes out in one
// write. net/http's own two buffers would cost every connection 8 KiB.
const (
	readBuffer  = 256
	writeBuffer = 160
)

// queuedFrames is how many of the largest frames may wait to be sent at least. With fewer, one
// member's large message would close others as slow readers who read as fast as they can.
const queuedFrames = 4

// hijacker gives the WebSocket library a socket with small buffers.
type hijacker struct {
	http.ResponseWriter
	session *session
}

// Hijack takes over the connection, and what the HTTP server has read of it beyond the
// request.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	_ = nc.SetDeadline(time.Time{}) // clears the HTTP server's deadlines
	if tcp, ok := nc.(interface{ SetWriteBuffer(bytes int) error }); ok {
		_ = tcp.SetWriteBuffer(kernelBuffer) // if this fails, slow readers are noticed later
	}
	ahead, _ := rw.Reader.Peek(rw.Reader.Buffered())
	limit := max(wire.MaxQueuedBytes, queuedFrames*h.session.g.cfg.MaxFrameBytes)
	h.session.sock = newSocket(nc, limit, &h.session.g.sockets)
	h.session.in.meter.pass(ahead) // now that there is a socket, which a flood would close
	lib := libraryConn{nc, h.session}
	br := bufio.NewReaderSize(bytes.NewReader(ahead), max(readBuffer, len(ahead)))
	_, _ = br.Peek(len(ahead)) // buffers ahead: the library takes over what is buffered, and then reads lib
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

// Read counts the frames in what it reads. It reads payload in large pieces, but only a few
// frames at a time, since the pause that many frames call for could exceed longestPause.
func (c libraryConn) Read(p []byte) (int, error) {
	m := c.session.in.meter
	p = p[:min(uint64(len(p)), min(m.skip, lingerBytes)+readBuffer)] // a header may give any length
	n, err := c.session.read(p)
	c.session.in.cut = err != nil && !errors.Is(err, errQuiet)
	m.pass(p[:n])
	return n, err
}

// Write sends one control frame of the library. A close frame is held back, see answerClose.
func (c libraryConn) Write(p []byte) (int, error) {
	s := c.session.sock
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.endingLocked():
	case len(p) > 0 && p[0]&0x0f == opClose:
		if s.echo = bytes.Clone(p); len(p) > 4 && !utf8.Valid(p[4:]) { // the reason, which is the peer's
			s.echo = closeFrame(wire.CloseInvalidText)
		}
	default:
		s.sendLocked(p)
	}
	return len(p), nil
}

// Close leaves the connection open: the session closes it, after what is queued was sent. If
// the library calls Close to end a read, the keeper ends that read later.
func (c libraryConn) Close() error { return nil }
