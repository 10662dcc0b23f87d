package gateway_test

import (
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// FuzzSocket sends arbitrary bytes over the socket of a member. Whatever they are, the
// gateway's frames are well-formed, it closes the socket or goes on, nobody else takes the
// seat, and another member is not disturbed.
func FuzzSocket(f *testing.F) {
	text := func(s string) []byte { return encodeFrame(final|opText, []byte(s)) }
	for _, seed := range [][]byte{
		text(`{"type":"MESSAGE","id":"a","body":{"x":[1,"\u2028"]}}`),
		text(`{"type":"JOIN","roomId":"fuzz"}`),
		text(`{"type":"LEAVE"}`),
		text(`{"type":"PING"}`),
		text(`{"type":"MESSAGE","body":"` + strings.Repeat("x", 17<<10) + `"}`),
		text("\xff"),
		append(encodeFrame(opText, []byte(`{"type":"PI`)), encodeFrame(final|opContinuation, []byte(`NG"}`))...),
		encodeFrame(final|opBinary, nil),
		encodeFrame(final|opPing, []byte("ping")),
		encodeFrame(final|opClose, []byte{0x03, 0xe8}),
		encodeFrame(final|opClose, nil),
		encodeFrame(final|opClose, []byte("x")),
		{final | opText, 0x80 | 127, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0},
		{final | 0x40 | opText, 0x80, 0, 0, 0, 0},
		[]byte("GET /chat HTTP/1.1\r\n\r\n"),
		{},
	} {
		f.Add(seed)
	}
	c := start(f, shape{configure: unlimited}, true)
	n := c.nodes[0]
	roomID := c.room(roomSpec{RoomID: "fuzz", Capacity: 2})
	other, _ := n.walkIn(roomID, "")
	user, token := c.user("")
	f.Fuzz(func(t *testing.T, data []byte) {
		c.t = t
		p, _ := n.walkIn(roomID, token)
		p.raw(data)
		p.raw(text(`{"type":"PING"}`)) // answered, unless it becomes part of what was sent before
		if tcp, ok := p.conn.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
		for {
			raw, err := p.receive(time.Now().Add(patience))
			if end, ok := errors.AsType[*closed](err); ok {
				if end.code != 1006 && end.reason != "" && !utf8.ValidString(end.reason) {
					t.Fatalf("closed with reason %q", end.reason)
				}
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			var got wire.ServerFrame
			if !utf8.Valid(raw) || json.Unmarshal(raw, &got) != nil || got.Type == "" {
				t.Fatalf("the gateway sent %q", raw)
			}
		}
		p.cut()
		// The other member sees well-formed frames of this user only, and its own.
		other.t = t
		other.say("", "undisturbed")
		for {
			f := other.next()
			if f.Type == wire.TypeMessage && f.From.UserID != user {
				break
			}
		}
	})
}
