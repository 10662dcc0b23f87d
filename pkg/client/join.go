package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"time"

	"github.com/coder/websocket"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// Via is a way to join.
type Via int

// The ways to join.
const (
	ViaFrame  Via = iota // /chat, then a JOIN frame; the only way that supports After
	ViaPermit            // /chat?permit=P
	ViaQuery             // /chat?roomId=R&identity=I&nickname=N
)

// ReadLimit is the size in bytes of the largest frame accepted from a server. A JOINED with
// 1,000 members and the longest names is below 1 MiB.
const ReadLimit = 2 << 20

// closeGrace is how long a refused join waits for the close that follows its ERROR.
const closeGrace = 2 * time.Second

// JoinOptions say who joins which room, and how.
type JoinOptions struct {
	RoomID   string
	Permit   string         // empty for a walk-in
	Identity string         // Identity.Identity; if empty, the service makes one, see Joined.Identity
	Nickname string         // at most 40 characters
	After    *wire.Position // the last position seen: asks for what was missed
	Via      Via
	BaseURL  string // used instead of the Client's, to reach a certain gateway
}

// Join opens a WebSocket and joins a room. ctx limits the join, not the Session. If the
// service does not confirm the join, the error is a *JoinError, or a *StatusError if it
// refused the upgrade itself (403 for an origin that is not allowed).
func (c *Client) Join(ctx context.Context, o JoinOptions) (*Session, error) {
	s, err := c.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	return s.confirmed(ctx, o)
}

// confirmed joins over the WebSocket that Open has opened, and returns s, or else closes it.
func (s *Session) confirmed(ctx context.Context, o JoinOptions) (*Session, error) {
	if err := s.join(ctx, o); err != nil {
		s.Abort()
		return nil, fmt.Errorf("client: join: %w", err)
	}
	return s, nil
}

// Open opens the same WebSocket as Join, but neither sends JOIN nor waits for JOINED. It is
// for tests and tools that speak the protocol themselves. The Session's Joined is empty.
func (c *Client) Open(ctx context.Context, o JoinOptions) (*Session, error) {
	if o.BaseURL != "" {
		other, err := c.At(o.BaseURL)
		if err != nil {
			return nil, err
		}
		c = other
	}
	query, err := o.query()
	if err != nil {
		return nil, fmt.Errorf("client: join: %w", err)
	}
	s := newSession()
	header := http.Header{}
	if c.origin != "" {
		header.Set("Origin", c.origin)
	}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(got httptrace.GotConnInfo) { s.net = got.Conn },
	})
	//nolint:bodyclose // Dial closes it, or leaves a reader of what it has read already
	conn, resp, err := websocket.Dial(ctx, c.address([]string{"chat"}, query), &websocket.DialOptions{
		HTTPClient: c.http, HTTPHeader: header, OnPingReceived: s.pinged,
	})
	if err != nil {
		return nil, fmt.Errorf("client: open: %w", handshakeError(resp, err))
	}
	conn.SetReadLimit(ReadLimit)
	s.conn = conn
	return s, nil
}

func (o JoinOptions) query() (url.Values, error) {
	query := url.Values{}
	if o.Via != ViaFrame && o.After != nil {
		return nil, errors.New("a position travels in a JOIN frame only")
	}
	switch o.Via {
	case ViaFrame:
	case ViaPermit:
		query.Set("permit", o.Permit)
	case ViaQuery:
		if o.Permit != "" {
			return nil, errors.New("ViaQuery takes no permit")
		}
		query.Set("roomId", o.RoomID)
		if o.Identity != "" {
			query.Set("identity", o.Identity)
		}
		if o.Nickname != "" {
			query.Set("nickname", o.Nickname)
		}
	default:
		return nil, fmt.Errorf("no such way to join: %d", o.Via)
	}
	return query, nil
}

// handshakeError distinguishes a refusal by the service from a service that was not reached.
func handshakeError(resp *http.Response, err error) error {
	if resp == nil || resp.StatusCode == http.StatusSwitchingProtocols || resp.StatusCode < 300 || resp.Body == nil {
		return err
	}
	body, _ := io.ReadAll(resp.Body) // already in memory: the first 1,024 bytes
	return newStatusError(resp, body)
}

// join sends JOIN, unless the URL has joined already, and waits for JOINED.
func (s *Session) join(ctx context.Context, o JoinOptions) error {
	if o.Via == ViaFrame {
		frame, err := json.Marshal(wire.ClientFrame{
			Type: wire.TypeJoin, RoomID: o.RoomID, Permit: o.Permit,
			Identity: o.Identity, Nickname: o.Nickname, After: o.After,
		})
		if err != nil {
			return err
		}
		// If the write fails because the other side closed, its close frame says why.
		if err := s.SendRaw(ctx, frame); err != nil && ctx.Err() != nil {
			return err
		}
	}
	for {
		f, err := s.Receive(ctx)
		switch {
		case err != nil:
			return joinFailure(nil, err)
		case f.Type == wire.TypeJoined:
			s.accept(f, o.After)
			return nil
		case f.Type == wire.TypeError:
			return s.refused(ctx, &wire.Error{Code: f.Code, Detail: f.Detail})
		}
	}
}

// refused waits for the close that follows an ERROR. It may not come: BAD_REQUEST leaves the
// connection open.
func (s *Session) refused(ctx context.Context, refusal *wire.Error) error {
	ctx, cancel := context.WithTimeout(ctx, closeGrace)
	defer cancel()
	for {
		if _, err := s.ReceiveRaw(ctx); err != nil {
			return joinFailure(refusal, err)
		}
	}
}

func joinFailure(refusal *wire.Error, err error) error {
	if end, ok := errors.AsType[*CloseError](err); ok {
		return newJoinError(refusal, end)
	}
	if refusal != nil {
		return newJoinError(refusal, nil)
	}
	return err
}
