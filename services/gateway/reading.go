package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/coder/websocket"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// This file is about what a session reads, and who reads. Once its join by URL, if it asked for
// one, has been carried out, a session is at any moment in one of these states; its socket's mutex guards what tells them apart.
//
//	reading   a goroutine runs readLoop. It owns session.in, and is the only one that parks
//	nudged    the same, but somebody wants the session parked: the read that waits ends once
//	          (socket.nudged), and the next one ends with errQuiet if nothing has come
//	parked    no goroutine (socket.parked): parking owns session.in.meter. News from the peer, or
//	          whatever ends the session, starts readLoop again (wake)
//	ending    the socket is closing, by either side, or over: the session is not parked any more.
//	          readLoop discards what comes, until the peer has closed or its time is over
//
// The WebSocket library lies between readFrame, which asks it for a frame, and read, which it
// calls for bytes (library.go).

// incoming is the state of what comes in. The goroutine that reads owns it; while there is
// none, parking owns meter.
type incoming struct {
	buffer          *bufio.Reader // what the library reads from
	meter           *meter        // counts what is not a MESSAGE
	flood           flood
	amid            bool // a message has begun and not ended
	cut             bool // the last read of the connection failed
	overtimeGranted bool // grantOvertime has extended the time for the JOIN

	malformed uint8 // malformed frames so far, of which the tenth closes the socket

	// unread: what came along with the handshake, which the library keeps apart from buffer,
	// has not been read. closes: that begins with a close frame.
	unread, closes bool
}

// readLoop reads until the socket ends or the session is parked.
func (s *session) readLoop() {
	var err error
	for err == nil {
		err = s.readFrame()
		if errors.Is(err, errQuiet) {
			if s.park() {
				return
			}
			err = nil
		}
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && !s.leased():
		s.close(wire.CloseJoinTimeout)
	case s.broken(err):
		s.close(wire.CloseProtocolError)
	}
	s.end(err)
	s.sock.finish(websocket.CloseStatus(err) != -1)
	s.g.keeper.remove(s)
	_ = s.ws.CloseNow()
	s.g.metrics.sockets.Dec()
	s.g.ended()
}

// broken reports whether reading ended because a frame violated RFC 6455, rather than because
// the connection ended, the peer closed, or the library gave up on a control frame that took
// longer than 5 s.
func (s *session) broken(err error) bool {
	return !s.in.cut && websocket.CloseStatus(err) == -1 &&
		!errors.Is(err, net.ErrClosed) && !errors.Is(err, context.DeadlineExceeded)
}

// frames pools the buffers for reading, so that a silent socket holds none.
var frames = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// readFrame reads one frame and handles it. Once this side has closed, it discards what it
// reads and only waits for the peer to close too.
func (s *session) readFrame() error {
	kind, r, err := s.ws.Reader(context.Background())
	if err != nil {
		return err
	}
	s.hear()
	s.talking()
	s.in.unread = false // the rest of what came with the handshake is in in.buffer now
	s.in.amid = true
	defer func() { s.in.amid = false }()
	if s.sock.closeCode() != 0 {
		s.in.meter.throttle(1) // a peer that floods must not get faster by being closed
		return discard(r)
	}
	if kind != websocket.MessageText {
		s.close(wire.CloseUnsupported)
		return discard(r)
	}
	buf := frames.Get().(*bytes.Buffer)
	defer frames.Put(buf)
	buf.Reset()
	switch n, err := buf.ReadFrom(io.LimitReader(r, int64(s.g.cfg.MaxFrameBytes)+1)); {
	case err != nil:
		return err
	case n > int64(s.g.cfg.MaxFrameBytes):
		s.close(wire.CloseTooBig)
		return discard(r)
	}
	s.in.amid = false
	return s.handle(buf.Bytes())
}

// discard reads and drops the rest of a message. It fails if that is 1 MiB (lingerBytes) or
// more.
func discard(r io.Reader) error {
	n, err := io.Copy(io.Discard, io.LimitReader(r, lingerBytes))
	if err == nil && n == lingerBytes {
		return errors.New("the peer sends on and on after the close")
	}
	return err
}

// errQuiet ends a read that would have to wait.
var errQuiet = errors.New("nothing to read")

// read reads for the WebSocket library. For a quiet member it returns errQuiet instead of
// waiting, but only between two frames, where the library can go on reading later as if
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

// joinOvertime is how much time grantOvertime gives.
const joinOvertime = 100 * time.Millisecond

// grantOvertime gives the client a little more time to JOIN, once: after a stall of this
// process, the end of that time would be noticed before a JOIN that came meanwhile.
func (s *session) grantOvertime() bool {
	if s.in.overtimeGranted || s.leased() || s.sock.ending() {
		return false
	}
	s.in.overtimeGranted = true
	s.sock.readBy(time.Now().Add(joinOvertime))
	return true
}

// tryRead reads what has come already. It returns errQuiet if there is nothing.
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

// nudge ends the read that waits, or the next one that would, so that the session can be
// parked.
func (s *socket) nudge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.endingLocked() && s.parked == nil {
		s.nudged = true
		_ = s.nc.SetReadDeadline(time.Unix(1, 0))
	}
}

// takeNudge reports whether nudge has ended a read, and undoes nudge.
func (s *socket) takeNudge() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	nudged := s.nudged
	s.nudged = false
	if nudged && !s.endingLocked() {
		_ = s.nc.SetReadDeadline(time.Time{})
	}
	return nudged
}

// gone reports whether the peer has disconnected, or the next frame from it is a close. It
// reports false if another unread frame comes before that. Only the reading goroutine calls
// it, between two messages.
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
