package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// closeTimeout is how long Close takes at most: 5 s to write and 5 s to wait, as in the library.
const closeTimeout = 10 * time.Second

// Session is one WebSocket. Its methods may be called by many goroutines at once. Each frame
// goes to one of the goroutines that receive.
//
// The application must keep receiving: only during a receive are pings answered and the end
// of the connection noticed. If nothing, not even a ping, arrives during a receive for
// wire.PeerSilence, the Session ends with CloseAbnormal. Every Session ends with Leave, Close
// or Abort, or when the other side ends it, which a receive reports as a *CloseError.
type Session struct {
	conn    *websocket.Conn
	net     net.Conn         // what conn reads and writes; nil if that is not known
	joined  wire.ServerFrame // set before Join returns
	silence *time.Timer      // runs while a read is under way

	// Owned by the goroutine that put the token into turn.
	turn    chan struct{}
	reading bool // a read is in progress that no receive waits for any more
	results chan result

	once sync.Once
	done chan struct{}
	end  *CloseError // set before done is closed
	// closing is the error with which Close ends the Session. A concurrent read may notice
	// the end first, and then fails with an error about the lost connection; finish takes this
	// one instead.
	closing atomic.Pointer[CloseError]

	mu  sync.Mutex // guards pos
	pos wire.Position
}

type result struct {
	data []byte
	err  error
}

func newSession() *Session {
	s := &Session{turn: make(chan struct{}, 1), results: make(chan result, 1), done: make(chan struct{})}
	s.silence = time.AfterFunc(time.Hour, func() {
		s.cut(&CloseError{Code: CloseAbnormal, Reason: "nothing came for " + wire.PeerSilence.String()})
	})
	s.silence.Stop()
	return s
}

// Joined returns the JOINED frame that confirmed the session.
func (s *Session) Joined() wire.Joined {
	f := s.joined
	return wire.Joined{
		Type: f.Type, RoomID: f.RoomID, Epoch: f.Epoch, Seq: f.Seq, UserID: f.UserID, SessionID: f.SessionID,
		Identity: f.Identity, Capacity: f.Capacity, Occupied: f.Occupied, Members: f.Members, Recovered: f.Recovered,
	}
}

// Position returns the last place in the log that Receive or Frames has seen, which is what
// After of the next join needs. ReceiveRaw does not change it.
func (s *Session) Position() wire.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pos
}

// accept sets the position after which the log continues. This is after, if the service can
// replay from there; the beginning of the log, if the room is another one with the same id;
// and JOINED otherwise, also if the log was set back to before after.
func (s *Session) accept(f wire.ServerFrame, after *wire.Position) {
	s.joined = f
	pos := wire.Position{Epoch: f.Epoch, Seq: f.Seq}
	switch {
	case after == nil:
	case after.Epoch != f.Epoch:
		pos.Seq = 0
	case after.Seq < f.Seq:
		pos.Seq = after.Seq
	}
	s.mu.Lock()
	s.pos = pos
	s.mu.Unlock()
}

// Receive waits for the next frame. If the connection has ended, the error is a *CloseError,
// the same for every further call. If ctx ends first, the error wraps ctx's error, the
// Session goes on, and no frame is lost.
func (s *Session) Receive(ctx context.Context) (wire.ServerFrame, error) {
	var f wire.ServerFrame
	data, err := s.ReceiveRaw(ctx)
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return f, fmt.Errorf("client: receive: %w: %w", ErrProtocol, err)
	}
	s.mu.Lock()
	switch f.Type {
	case wire.TypeMessage, wire.TypeMemberJoined, wire.TypeMemberLeft:
		s.pos.Seq = max(s.pos.Seq, f.Seq)
	case wire.TypeGap:
		s.pos.Seq = max(s.pos.Seq, f.GapTo)
	}
	s.mu.Unlock()
	return f, nil
}

// Frames yields frames until the Session or ctx ends. The last pair is an empty frame and the
// error of Receive.
func (s *Session) Frames(ctx context.Context) iter.Seq2[wire.ServerFrame, error] {
	return func(yield func(wire.ServerFrame, error) bool) {
		for {
			f, err := s.Receive(ctx)
			if !yield(f, err) || err != nil {
				return
			}
		}
	}
}

// ReceiveRaw is like Receive but does not decode the frame. If ctx cannot end, as
// context.Background(), it starts no goroutine.
func (s *Session) ReceiveRaw(ctx context.Context) ([]byte, error) {
	if err := s.takeTurn(ctx); err != nil {
		return nil, err
	}
	defer s.endTurn()
	return s.next(ctx)
}

func (s *Session) takeTurn(ctx context.Context) error {
	select {
	case <-s.done:
		return s.end
	case <-ctx.Done():
		return fmt.Errorf("client: receive: %w", ctx.Err())
	case s.turn <- struct{}{}:
		return nil
	}
}

func (s *Session) endTurn() { <-s.turn }

// next reads for the owner of the turn. The WebSocket library closes the connection when the
// context of a read ends. So a read whose caller has given up continues by itself, and its
// frame waits for the next turn.
func (s *Session) next(ctx context.Context) ([]byte, error) {
	if !s.reading && ctx.Done() == nil {
		return s.read()
	}
	if !s.reading {
		s.reading = true
		go func() {
			data, err := s.read()
			s.results <- result{data, err}
		}()
	}
	select {
	case r := <-s.results:
		s.reading = false
		return r.data, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("client: receive: %w", ctx.Err())
	}
}

func (s *Session) read() ([]byte, error) {
	s.silence.Reset(wire.PeerSilence)
	_, data, err := s.conn.Read(context.Background())
	s.silence.Stop()
	if err != nil {
		s.finish(newCloseError(err))
		return nil, s.end
	}
	return data, nil
}

// pinged is called by the library during reads.
func (s *Session) pinged(context.Context, []byte) bool {
	s.silence.Reset(wire.PeerSilence)
	return true
}

// finish ends the Session. Only the first reason is kept. While Close is in progress, an
// abnormal end counts as the end by Close.
func (s *Session) finish(end *CloseError) {
	if closing := s.closing.Load(); closing != nil && end.Code == CloseAbnormal {
		end = closing
	}
	s.once.Do(func() {
		s.end = end
		close(s.done)
	})
}

func (s *Session) cut(end *CloseError) {
	s.finish(end)
	s.hangUp()
	_ = s.conn.CloseNow() // fails only if the connection is already closed
}

// hangUp closes the network connection. While the library waits for an answer to its close
// frame, its CloseNow only waits too, and if the other side vanished in the middle of a frame,
// that lasts until the kernel gives up.
func (s *Session) hangUp() {
	if s.net != nil {
		_ = s.net.Close()
	}
}

// Send writes a MESSAGE. body is encoded as JSON. id has at most 64 characters and may be
// empty. The echo, or an ERROR with this id, arrives through Receive. If ctx ends during the
// write, the Session ends too, since half a frame may have been sent.
func (s *Session) Send(ctx context.Context, id string, body any) error {
	frame, err := encodeMessage(id, body)
	if err != nil {
		return err
	}
	return s.SendRaw(ctx, frame)
}

func encodeMessage(id string, body any) ([]byte, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("client: encode the body: %w", err)
	}
	frame, err := json.Marshal(wire.ClientFrame{Type: wire.TypeMessage, ID: id, Body: raw})
	if err != nil {
		return nil, fmt.Errorf("client: encode the message: %w", err)
	}
	return frame, nil
}

// SendRaw writes frame as one text frame, without checking it.
func (s *Session) SendRaw(ctx context.Context, frame []byte) error {
	if err := s.conn.Write(ctx, websocket.MessageText, frame); err != nil {
		return fmt.Errorf("client: send: %w", err)
	}
	return nil
}

// Ping writes a PING frame. The PONG arrives through Receive.
func (s *Session) Ping(ctx context.Context) error {
	return s.SendRaw(ctx, []byte(`{"type":"PING"}`))
}

// Leave gives the seat up: it sends LEAVE and waits for the close with 1000. Frames that
// arrive before that close may be dropped. If ctx ends first, Leave cuts the connection, and
// the seat is free when its lease ends.
func (s *Session) Leave(ctx context.Context) error {
	defer s.Abort()
	if err := s.SendRaw(ctx, []byte(`{"type":"LEAVE"}`)); err != nil {
		return err
	}
	err := s.takeTurn(ctx)
	if err == nil {
		defer s.endTurn()
	}
	for err == nil {
		_, err = s.next(ctx)
	}
	// The end of a concurrent Close does not mean that the other side confirmed.
	if end, ok := errors.AsType[*CloseError](err); ok && end.Code == wire.CloseNormal && end != s.closing.Load() {
		return nil
	}
	return fmt.Errorf("client: leave: %w", err)
}

// Close sends a close frame with code and waits for that of the other side: at most 5 s to
// write and 5 s to wait. 1000 and 1001 give the seat up. After other codes (3000–4999) the seat
// stays taken for the rest of its lease.
func (s *Session) Close(code wire.CloseCode) error {
	end := &CloseError{Code: code, Reason: "closed by the client"}
	s.closing.Store(end)
	late := time.AfterFunc(closeTimeout, s.hangUp)
	err := s.conn.Close(websocket.StatusCode(code), code.String())
	if !late.Stop() && err == nil {
		err = os.ErrDeadlineExceeded // to the library, that we hung up means that it is closed
	}
	s.finish(end)
	if err != nil {
		return fmt.Errorf("client: close: %w", err)
	}
	return nil
}

// Abort cuts the connection without a close frame, as a crash or a broken network
// would: the seat stays taken for the rest of its lease. It may be called at any
// time and more than once.
func (s *Session) Abort() {
	s.cut(&CloseError{Code: CloseAbnormal, Reason: "cut by the client"})
}
