package gateway_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// Opcodes of RFC 6455.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa
	final          = 0x80
)

// patience is how long a peer waits for what should come at once.
const patience = 20 * time.Second

// peer is a browser that the test controls down to its bytes. It answers pings only while it
// reads.
type peer struct {
	t    testing.TB
	conn net.Conn
	br   *bufio.Reader
	mute bool // answers no pings
	log  []wire.ServerFrame
}

// frame is one WebSocket frame of the server.
type frame struct {
	op      byte
	payload []byte
}

// try opens a WebSocket and sends extra together with the request. If the upgrade is refused,
// the peer is nil.
func (n *node) try(target string, header http.Header, extra []byte) (*peer, *http.Response) {
	t := n.c.t
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := n.dial(ctx)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	var nonce [16]byte
	_, _ = rand.Read(nonce[:])
	req := "GET " + target + " HTTP/1.1\r\nHost: " + n.url[len("http://"):] +
		"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " +
		base64.StdEncoding.EncodeToString(nonce[:]) + "\r\n"
	for name, values := range header {
		for _, v := range values {
			req += name + ": " + v + "\r\n"
		}
	}
	_, err = conn.Write(append([]byte(req+"\r\n"), extra...))
	must(t, err)
	p := &peer{t: t, conn: conn, br: bufio.NewReader(conn)}
	must(t, conn.SetReadDeadline(time.Now().Add(patience)))
	resp, err := http.ReadResponse(p.br, nil)
	must(t, err)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Body.Close()
		return nil, resp
	}
	return p, resp
}

// open opens a WebSocket.
func (n *node) open(target string) *peer {
	n.c.t.Helper()
	p, resp := n.try(target, nil, nil)
	if p == nil {
		n.c.t.Fatalf("%s answered %s", target, resp.Status)
	}
	return p
}

// query makes the target of a request from pairs of names and values.
func query(pairs ...string) string {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
	}
	return "/chat?" + q.Encode()
}

// walkIn joins with an identity, or as a new user if it is empty.
func (n *node) walkIn(roomID, identity string) (*peer, wire.ServerFrame) {
	n.c.t.Helper()
	p := n.open("/chat")
	return p, p.join(wire.ClientFrame{RoomID: roomID, Identity: identity})
}

// pair makes a room with a member on each of the first two gateways. joined is the JOINED of
// the second.
func (c *cluster) pair() (roomID string, first, second *peer, joined wire.ServerFrame) {
	c.t.Helper()
	roomID = c.room(roomSpec{})
	first, _ = c.nodes[0].walkIn(roomID, "")
	second, joined = c.nodes[1].walkIn(roomID, "")
	first.expect(wire.TypeMemberJoined)
	return roomID, first, second, joined
}

func (p *peer) join(f wire.ClientFrame) wire.ServerFrame {
	p.t.Helper()
	p.sendJoin(f)
	return p.expect(wire.TypeJoined)
}

func (p *peer) sendJoin(f wire.ClientFrame) {
	p.t.Helper()
	f.Type = wire.TypeJoin
	p.json(f)
}

// encodeFrame makes one masked frame of a client. b0 holds FIN, RSV and the opcode.
func encodeFrame(b0 byte, payload []byte) []byte {
	b := []byte{b0}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	mask := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	b = append(b, mask[:]...)
	for i, c := range payload {
		b = append(b, c^mask[i%4])
	}
	return b
}

// raw writes bytes. It is no failure if the gateway has closed: the next read will tell.
func (p *peer) raw(b []byte) {
	_ = p.conn.SetWriteDeadline(time.Now().Add(patience))
	_, _ = p.conn.Write(b)
}

func (p *peer) text(s string) { p.raw(encodeFrame(final|opText, []byte(s))) }

func (p *peer) json(v any) {
	p.t.Helper()
	raw, err := json.Marshal(v)
	must(p.t, err)
	p.text(string(raw))
}

// say sends a MESSAGE.
func (p *peer) say(id string, body any) {
	p.t.Helper()
	raw, err := json.Marshal(body)
	must(p.t, err)
	p.json(wire.ClientFrame{Type: wire.TypeMessage, ID: id, Body: raw})
}

// readFrame reads one frame of the server.
func (p *peer) readFrame(by time.Time) (f frame, err error) {
	_ = p.conn.SetReadDeadline(by)
	var head [2]byte
	if _, err := io.ReadFull(p.br, head[:]); err != nil {
		return f, err
	}
	if head[0]&final == 0 || head[1]&0x80 != 0 {
		return f, fmt.Errorf("the server sent a frame that is fragmented or masked: %x", head)
	}
	n := uint64(head[1])
	var ext [8]byte
	switch n {
	case 126:
		_, err = io.ReadFull(p.br, ext[6:])
		n = binary.BigEndian.Uint64(ext[:])
	case 127:
		_, err = io.ReadFull(p.br, ext[:])
		n = binary.BigEndian.Uint64(ext[:])
	}
	if err != nil {
		return f, err
	}
	f = frame{op: head[0] & 0xf, payload: make([]byte, n)}
	_, err = io.ReadFull(p.br, f.payload)
	return f, err
}

// closed is the end of a connection as a peer sees it. The code is 1006 if no close frame
// came.
type closed struct {
	code   int
	reason string
	err    error
}

func (c *closed) Error() string {
	return fmt.Sprintf("closed with %d %q (%v)", c.code, c.reason, c.err)
}

// receive reads the next data frame. It answers pings and close frames.
func (p *peer) receive(by time.Time) ([]byte, error) {
	for {
		f, err := p.readFrame(by)
		switch {
		case err != nil:
			var late net.Error
			if errors.As(err, &late) && late.Timeout() {
				return nil, err
			}
			return nil, &closed{code: 1006, err: err}
		case f.op == opPing && !p.mute:
			p.raw(encodeFrame(final|opPong, f.payload))
		case f.op == opClose:
			end := &closed{code: 1005}
			if len(f.payload) >= 2 {
				end.code, end.reason = int(binary.BigEndian.Uint16(f.payload)), string(f.payload[2:])
			}
			p.raw(encodeFrame(final|opClose, f.payload[:min(2, len(f.payload))]))
			return nil, end
		case f.op == opText:
			return f.payload, nil
		case f.op != opPing && f.op != opPong:
			return nil, fmt.Errorf("opcode %d", f.op)
		}
	}
}

// receiveFrame reads the next frame of the protocol.
func (p *peer) receiveFrame(by time.Time) (f wire.ServerFrame, err error) {
	raw, err := p.receive(by)
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return f, fmt.Errorf("%s: %w", raw, err)
	}
	p.log = append(p.log, f)
	return f, nil
}

// next waits for the next frame.
func (p *peer) next() wire.ServerFrame {
	p.t.Helper()
	f, err := p.receiveFrame(time.Now().Add(patience))
	if err != nil {
		p.t.Fatalf("no frame: %v", err)
	}
	return f
}

// expect waits for the next frame, which must be of this type.
func (p *peer) expect(kind string) wire.ServerFrame {
	p.t.Helper()
	f := p.next()
	if f.Type != kind {
		p.t.Fatalf("got %s, want %s", show(f), kind)
	}
	return f
}

// refusal waits for an ERROR with a code.
func (p *peer) refusal(code wire.Code) wire.ServerFrame {
	p.t.Helper()
	f := p.expect(wire.TypeError)
	if f.Code != code || f.Detail == "" {
		p.t.Fatalf("got %s, want code %s and a detail", show(f), code)
	}
	return f
}

// heard waits for a MESSAGE with this body, a JSON string. OCCUPANCY, which is not in the log,
// may come before it.
func (p *peer) heard(body string) wire.ServerFrame {
	p.t.Helper()
	f := p.next()
	for f.Type == wire.TypeOccupancy {
		f = p.next()
	}
	if want, _ := json.Marshal(body); f.Type != wire.TypeMessage || string(f.Body) != string(want) {
		p.t.Fatalf("got %s, want %q", show(f), body)
	}
	return f
}

// end reads until the connection ends, and returns the close code.
func (p *peer) end() int {
	p.t.Helper()
	return p.endBy(time.Now().Add(patience))
}

func (p *peer) endBy(by time.Time) int {
	p.t.Helper()
	for {
		_, err := p.receiveFrame(by)
		var end *closed
		if errors.As(err, &end) {
			return end.code
		}
		if err != nil {
			p.t.Fatalf("no end: %v", err)
		}
	}
}

// ends fails unless the next thing that comes is a close with this code.
func (p *peer) ends(code wire.CloseCode) {
	p.t.Helper()
	f, err := p.receiveFrame(time.Now().Add(patience))
	var end *closed
	if err == nil {
		p.t.Fatalf("got %s, want a close with %d", show(f), code)
	}
	if !errors.As(err, &end) || end.code != int(code) {
		p.t.Fatalf("got %v, want a close with %d", err, code)
	}
	if code != wire.CloseNormal && end.reason != code.String() {
		p.t.Fatalf("the reason is %q, want %q", end.reason, code)
	}
}

// hangUp closes with a code (0: none) and waits until the gateway has closed too.
func (p *peer) hangUp(code int) {
	p.t.Helper()
	var payload []byte
	if code != 0 {
		payload = binary.BigEndian.AppendUint16(nil, uint16(code))
	}
	p.mute = true // nothing follows a close, not even a pong
	p.raw(encodeFrame(final|opClose, payload))
	want := code
	if code == 0 {
		want = 1005
	}
	if got := p.end(); got != want {
		p.t.Fatalf("the close with %d was answered with %d", code, got)
	}
}

// cut breaks the connection, as a network does.
func (p *peer) cut() { _ = p.conn.Close() }

// quiet reads for a while, in which only pings may come.
func (p *peer) quiet(d time.Duration) {
	p.t.Helper()
	f, err := p.receiveFrame(time.Now().Add(d))
	var late net.Error
	switch {
	case err == nil:
		p.t.Fatalf("got %s, want nothing", show(f))
	case !errors.As(err, &late) || !late.Timeout():
		p.t.Fatalf("got %v, want nothing", err)
	}
}

// sync makes sure that everything sent before has been handled, since frames are answered in
// order.
func (p *peer) sync() {
	p.t.Helper()
	p.text(`{"type":"PING"}`)
	p.expect(wire.TypePong)
}

func show(f wire.ServerFrame) string {
	raw, _ := json.Marshal(f)
	return strings.TrimSpace(string(raw))
}

// deadline returns when something that should come at once counts as missing.
func deadline() time.Time { return time.Now().Add(patience) }

// idle reads for a while, in which only pings and frames of some types may come.
func (p *peer) idle(d time.Duration, but ...string) {
	p.t.Helper()
	by := time.Now().Add(d)
	for {
		f, err := p.receiveFrame(by)
		var late net.Error
		switch {
		case err == nil && slices.Contains(but, f.Type):
		case err == nil:
			p.t.Fatalf("got %s", show(f))
		case errors.As(err, &late) && late.Timeout():
			return
		default:
			p.t.Fatalf("got %v", err)
		}
	}
}
