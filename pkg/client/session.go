package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/coder/websocket"
)

// Session is one WebSocket. Its methods may be called by many goroutines at once;
// frames go to whichever of them receives.
//
// Somebody must receive: pings are answered and the end is noticed only while a
// receive is under way. A receive that nothing reaches for wire.PeerSilence, not even
// a ping, ends the Session with CloseAbnormal. Every Session ends with Leave, Close or
// Abort, or by the other side, which shows as the *CloseError of a receive.
type Session struct {
	conn    *websocket.Conn
	joined  wire.ServerFrame // set before Join returns
	silence *time.Timer      // runs while a read is under way

	// Owned by whoever put the token into turn.
	turn    chan struct{}
	reading bool // a read goes on that no receive waits for any more
	results chan result

	once sync.Once
	done chan struct{}
	end  *CloseError // set before done is closed
	// closing is what Close ends the Session with. A read beside it may be the first to
	// notice, and fails for want of a connection.
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

// Joined answers with the JOINED frame that confirmed the session.
func (s *Session) Joined() wire.Joined {
	f := s.joined
	return wire.Joined{
		Type: f.Type, RoomID: f.RoomID, Epoch: f.Epoch, Seq: f.Seq, UserID: f.UserID, SessionID: f.SessionID,
		Identity: f.Identity, Capacity: f.Capacity, Occupied: f.Occupied, Members: f.Members, Recovered: f.Recovered,
	}
}

// Position is the last place in the log that Receive or Frames saw: what After of the
// next join wants. ReceiveRaw does not move it.
func (s *Session) Position() wire.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pos
}

// accept sets where the log goes on: behind after where the service can replay from
// there, at the beginning of a life of the room that is new to the client, and at
// JOINED otherwise, also when the log was set back to before after.
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

// Receive waits for the next frame. When the connection has ended the error is a
// *CloseError, the same for every further call. When ctx ends first, the error wraps
// ctx's and the Session goes on: no frame is lost.
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

// Frames yields frames until the Session or ctx ends; the last pair is an empty frame
// with the error of Receive.
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

// ReceiveRaw is Receive without decoding. With a ctx that cannot end, such as
// context.Background(), it costs no goroutine.
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

// next reads for the owner of the turn. The WebSocket library ends the connection
// when a read's context ends, so a read that is given up goes on by itself, and its
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

// pinged is called by reads.
func (s *Session) pinged(context.Context, []byte) bool {
	s.silence.Reset(wire.PeerSilence)
	return true
}

// finish keeps the first reason why the Session ended.
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
	_ = s.conn.CloseNow() // fails only where the connection is closed already
}

// Send writes a MESSAGE. body becomes JSON; id, at most 64 characters, may be empty.
// The echo, or ERROR with id, comes through Receive. When ctx ends during the write
// the Session ends too, since half a frame may be on the wire.
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

// SendRaw writes frame as one text frame, whatever it holds.
func (s *Session) SendRaw(ctx context.Context, frame []byte) error {
	if err := s.conn.Write(ctx, websocket.MessageText, frame); err != nil {
		return fmt.Errorf("client: send: %w", err)
	}
	return nil
}

// Ping writes a PING frame; PONG comes through Receive.
func (s *Session) Ping(ctx context.Context) error {
	return s.SendRaw(ctx, []byte(`{"type":"PING"}`))
}

// Leave gives the seat up: it sends LEAVE and waits for the close with 1000. What
// comes before that close may be dropped. When ctx ends first, the connection is cut
// and the seat is free when its lease ends.
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
	// A Close beside it says nothing of the other side.
	if end, ok := errors.AsType[*CloseError](err); ok && end.Code == wire.CloseNormal && end != s.closing.Load() {
		return nil
	}
	return fmt.Errorf("client: leave: %w", err)
}

// Close closes with code and waits up to 5 s for the other side to agree. 1000 and
// 1001 give the seat up; other codes (3000–4999) leave it to its lease.
func (s *Session) Close(code wire.CloseCode) error {
	end := &CloseError{Code: code, Reason: "closed by the client"}
	s.closing.Store(end)
	err := s.conn.Close(websocket.StatusCode(code), code.String())
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
