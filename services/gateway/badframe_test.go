package gateway_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

func TestFrameOf16KiBPassesAndOneByteMoreClosesWith1009(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		n, roomID := c.nodes[0], c.room(roomSpec{})
		other, _ := n.walkIn(roomID, "")
		p, _ := n.walkIn(roomID, "")
		other.expect(wire.TypeMemberJoined)
		head, tail := `{"type":"MESSAGE","body":"`, `"}`
		message := head + strings.Repeat("x", wire.DefaultFrameBytes-len(head)-len(tail)) + tail
		p.text(message)
		for _, q := range []*peer{p, other} {
			if f := q.expect(wire.TypeMessage); len(f.Body) != len(message)-len(head)-len(tail)+2 {
				t.Fatalf("the body has %d bytes", len(f.Body))
			}
		}
		p.text(message + " ")
		p.ends(wire.CloseTooBig)
		// The same in fragments, and of a size that is never sent.
		for _, start := range []func(p *peer){
			func(p *peer) {
				p.raw(encodeFrame(opText, []byte(message)))
				p.raw(encodeFrame(final|opContinuation, []byte(" ")))
			},
			func(p *peer) {
				p.raw([]byte{final | opText, 0x80 | 127, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4})
				p.raw(make([]byte, wire.DefaultFrameBytes+1))
			},
		} {
			p, _ := n.walkIn(roomID, "")
			start(p)
			p.ends(wire.CloseTooBig)
		}
		other.say("", "unaffected")
		for {
			if f := other.next(); f.Type == wire.TypeMessage {
				break
			}
		}
	})
}

func TestFramesThatAreNoTextClose(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		n, roomID := c.nodes[0], c.room(roomSpec{})
		for _, joined := range []bool{true, false} {
			open := func() *peer {
				p := n.open("/chat")
				if joined {
					p.join(wire.ClientFrame{RoomID: roomID})
				}
				return p
			}
			p := open()
			p.raw(encodeFrame(final|opBinary, []byte("x")))
			p.ends(wire.CloseUnsupported)
			p = open()
			p.text("{\"type\":\"MESSAGE\",\"body\":\"\xff\"}")
			p.ends(wire.CloseInvalidText)
			p = open()
			p.raw(encodeFrame(opText, []byte("\"\xe2\x82")))
			p.raw(encodeFrame(final|opContinuation, []byte("\xac\xed\xa0\x80\"")))
			p.ends(wire.CloseInvalidText)
		}
	})
}

func TestBrokenWebSocketFramesEndTheSocketAndNothingElse(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		n, roomID := c.nodes[0], c.room(roomSpec{Capacity: 20})
		other, _ := n.walkIn(roomID, "")
		for name, raw := range map[string][]byte{
			"reserved bit":                  encodeFrame(final|0x40|opText, []byte("x")),
			"unknown opcode":                encodeFrame(final|0x3, []byte("x")),
			"continuation of nothing":       encodeFrame(final|opContinuation, []byte("x")),
			"text within text":              append(encodeFrame(opText, []byte("x")), encodeFrame(opText, []byte("y"))...),
			"fragmented ping":               encodeFrame(opPing, []byte("x")),
			"ping of 126 bytes":             encodeFrame(final|opPing, make([]byte, 126)),
			"close of one byte":             encodeFrame(final|opClose, []byte("x")),
			"close with 1005":               encodeFrame(final|opClose, []byte{0x03, 0xed}),
			"not masked":                    {final | opText, 2, '{', '}'},
			"length with the highest bit":   {final | opText, 0x80 | 127, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4},
			"HTTP":                          []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
			"control frame within a header": {final},
		} {
			p, _ := n.walkIn(roomID, "")
			p.raw(raw)
			if name == "control frame within a header" {
				p.cut()
				continue
			}
			t.Log(name)
			p.ends(wire.CloseProtocolError)
		}
		other.say("", "unaffected")
		for {
			if f := other.next(); f.Type == wire.TypeMessage {
				break
			}
		}
	})
}

// The library waits 5 s for the rest of a control frame. A peer that takes longer is slow but
// breaks no rule, and may come back.
func TestASlowControlFrameIsNoFault(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		for _, op := range []byte{opPing, opPong} {
			p, _ := c.nodes[0].walkIn(c.room(roomSpec{}), "")
			frame := encodeFrame(final|op, []byte("x"))
			p.raw(frame[:len(frame)-1])
			time.Sleep(6 * time.Second)
			p.raw(frame[len(frame)-1:])
			if code := p.end(); code != 1006 {
				t.Errorf("closed with %d", code)
			}
		}
	})
}

func TestTenthMalformedFrameCloses(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		n, roomID := c.nodes[0], c.room(roomSpec{})
		bad := []string{
			`{`, `[]`, `"x"`, `null`, ``, `{} {}`, `{"type":"NONSENSE"}`, `{"type":1}`, `{}`, `{"type":"join"}`,
		}
		declined := []string{ // these are understood, and do not count
			`{"type":"MESSAGE"}`, `{"type":"MESSAGE","id":"` + strings.Repeat("x", 65) + `","body":1}`,
			`{"type":"MESSAGE","id":7,"body":1}`, `{"type":"JOIN","roomId":"r"}`, `{"type":"JOIN","roomId":7}`,
		}
		joined, _ := n.walkIn(roomID, "")
		for _, text := range slices.Concat(bad[:wire.MaxMalformedFrames-1], declined, declined, declined) {
			joined.text(text)
			joined.refusal(wire.BadRequest)
		}
		joined.say("", "still here")
		joined.heard("still here")
		joined.text(bad[wire.MaxMalformedFrames-1])
		joined.refusal(wire.BadRequest)
		joined.ends(wire.CloseBadRequest)

		p := n.open("/chat")
		p.text(`{"type":"NONSENSE","id":"named"}`)
		if f := p.refusal(wire.BadRequest); f.ID != "named" {
			t.Fatalf("got %s", show(f))
		}
		for range 2 * wire.MaxMalformedFrames {
			p.text(`{"type":"MESSAGE","body":1}`)
			p.refusal(wire.BadRequest)
		}
		for range wire.MaxMalformedFrames - 1 {
			p.text(`nonsense`)
			p.refusal(wire.BadRequest)
		}
		p.ends(wire.CloseBadRequest)
	})
}

func TestErrorNamesTheFrameItIsAbout(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		p, _ := c.nodes[0].walkIn(c.room(roomSpec{}), "")
		p.text(`{"type":"MESSAGE","id":"no-body"}`)
		if f := p.refusal(wire.BadRequest); f.ID != "no-body" {
			t.Fatalf("got %s", show(f))
		}
		long := strings.Repeat("ü", wire.MaxMessageIDLen+1)
		p.say(long, 1)
		if f := p.refusal(wire.BadRequest); f.ID != long {
			t.Fatalf("got %s", show(f))
		}
	})
}

func TestMessageIDIsAnyTextOf64Characters(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		p, _ := c.nodes[0].walkIn(c.room(roomSpec{}), "")
		for _, id := range []string{strings.Repeat("ü", wire.MaxMessageIDLen), strings.Repeat("😀", wire.MaxMessageIDLen), "\x00\n\u2028\"\\<>", " "} {
			p.say(id, "once")
			if f := p.heard("once"); f.ID != id {
				t.Fatalf("sent %q, got %s", id, show(f))
			}
			p.say(id, "twice")
			p.sync()
		}
		p.say("", "no id") // an empty id is none
		p.say("", "no id")
		first, second := p.heard("no id"), p.heard("no id")
		if first.ID != "" || second.Seq != first.Seq+1 {
			t.Fatalf("got %s and %s", show(first), show(second))
		}
	})
}

func TestEveryPINGIsAnsweredAlsoToWhoHasSpokenTooMuch(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		p, _ := c.nodes[0].walkIn(c.room(roomSpec{}), "")
		for range 41 {
			p.say("", 1)
		}
		for range 100 { // more than a burst of messages, and of frames
			p.text(`{"type":"PING"}`)
		}
		got := map[string]int{}
		for range 41 + 100 {
			f := p.next()
			got[f.Type+string(f.Code)]++
		}
		if got[wire.TypeMessage] != 40 || got[wire.TypePong] != 100 || got[wire.TypeError+string(wire.RateLimited)] != 1 {
			t.Fatalf("got %v", got)
		}
	})
}

func TestJoinTwiceAndMessageBeforeJoinAreBadRequestsThatKeepTheSocket(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		p := c.nodes[0].open("/chat")
		p.say("early", "x")
		if f := p.refusal(wire.BadRequest); f.ID != "early" {
			t.Fatalf("got %s", show(f))
		}
		p.join(wire.ClientFrame{RoomID: roomID})
		p.sendJoin(wire.ClientFrame{RoomID: roomID})
		p.refusal(wire.BadRequest)
		p.sendJoin(wire.ClientFrame{})
		p.refusal(wire.BadRequest)
		p.say("", "x")
		p.heard("x")
		c.occupied(roomID, 1)
	})
}

func TestLeaveBeforeJoinClosesWith1000(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		p := c.nodes[0].open("/chat")
		p.text(`{"type":"LEAVE"}`)
		p.ends(wire.CloseNormal)
	})
}

func TestPingFrameIsAnsweredBeforeAndAfterJoin(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		p := c.nodes[0].open("/chat")
		p.sync()
		p.join(wire.ClientFrame{RoomID: c.room(roomSpec{})})
		p.sync()
	})
}

func TestFragmentsWithControlFramesInBetween(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		p, _ := c.nodes[0].walkIn(c.room(roomSpec{}), "")
		text := []byte(`{"type":"MESSAGE","body":"in pieces"}`)
		p.raw(encodeFrame(opText, text[:1]))
		for i := 1; i < len(text)-1; i++ {
			p.raw(encodeFrame(final|opPing, []byte("p")))
			p.raw(encodeFrame(opContinuation, text[i:i+1]))
		}
		p.raw(encodeFrame(final|opPong, nil))
		p.raw(encodeFrame(final|opContinuation, text[len(text)-1:]))
		pongs := 0
		for {
			f, err := p.readFrame(deadline())
			must(t, err)
			if f.op == opPong && string(f.payload) == "p" {
				pongs++
			}
			if f.op == opText {
				break
			}
		}
		if pongs != len(text)-2 {
			t.Fatalf("%d pongs to %d pings", pongs, len(text)-2)
		}
	})
}

func TestBytesSentTogetherWithTheUpgradeAreNotLost(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		for _, size := range []int{1, 100, 3_000, 6_000} {
			var ahead []byte
			ahead = append(ahead, encodeFrame(final|opText, []byte(`{"type":"JOIN","roomId":"`+roomID+`"}`))...)
			ahead = append(ahead, encodeFrame(final|opText, []byte(`{"type":"MESSAGE","body":"`+strings.Repeat("x", size)+`"}`))...)
			p, resp := c.nodes[0].try("/chat", nil, ahead)
			if p == nil {
				t.Fatalf("answered %s", resp.Status)
			}
			p.expect(wire.TypeJoined)
			if f := p.expect(wire.TypeMessage); len(f.Body) != size+2 {
				t.Fatalf("the body has %d bytes", len(f.Body))
			}
			p.hangUp(1000)
			c.gone(roomID)
			c.room(roomSpec{RoomID: roomID})
		}
	})
}

func TestRequestsThatAreNoUpgradeAreRefused(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		if status := c.nodes[0].call("GET", "/chat", "", nil, nil); status != http.StatusUpgradeRequired {
			t.Errorf("GET /chat answered %d", status)
		}
		if _, resp := c.nodes[0].try("/chat", http.Header{"Sec-WebSocket-Key": {"second"}}, nil); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("two keys: %s", resp.Status)
		}
	})
}

// Browsers fail a connection if the reason in a close frame is not valid text.
func TestACloseReasonThatIsNotTextIsNotSentBack(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		p, _ := c.nodes[0].walkIn(c.room(roomSpec{Capacity: 2}), "")
		p.raw(encodeFrame(final|opClose, []byte{0x03, 0xe8, 0xff}))
		if code := p.end(); code != int(wire.CloseInvalidText) {
			t.Errorf("closed with %d", code)
		}
	})
}
