package gateway_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/gateway"
	"github.com/anteroom-chat/anteroom/services/gateway/identity"
	"github.com/anteroom-chat/anteroom/services/gateway/origin"
)

// refused fails unless a join on a new socket gets ERROR and the close code that goes
// with it.
func (n *node) refused(f wire.ClientFrame, code wire.Code) {
	n.c.t.Helper()
	p := n.open("/chat")
	p.sendJoin(f)
	p.refusal(code)
	p.ends(code.Translate().Close)
}

func (n *node) refusedByURL(target string, code wire.Code) {
	n.c.t.Helper()
	p := n.open(target)
	p.refusal(code)
	p.ends(code.Translate().Close)
}

func TestJoinThatCannotBeMadeGetsErrorAndItsCloseCode(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		n, roomID := c.nodes[0], c.room(roomSpec{Capacity: 1})
		for name, f := range map[string]wire.ClientFrame{
			"no room id":                      {},
			"room id with a blank":            {RoomID: "a b"},
			"room id of 65 characters":        {RoomID: strings.Repeat("a", 65)},
			"nickname of 41 characters":       {RoomID: roomID, Nickname: strings.Repeat("ü", 41)},
			"nickname with control character": {RoomID: roomID, Nickname: "a\u0007"},
			"after with a negative seq":       {RoomID: roomID, After: &wire.Position{Epoch: "e", Seq: -1}},
		} {
			t.Log(name)
			n.refused(f, wire.BadRequest)
			if f.RoomID != "" && f.After == nil {
				n.refusedByURL(query("roomId", f.RoomID, "nickname", f.Nickname), wire.BadRequest)
			}
		}
		for _, target := range []string{query("roomId", ""), query("permit", ""), query("roomId", "", "nickname", "Ada")} {
			n.refusedByURL(target, wire.BadRequest)
		}
		n.refused(wire.ClientFrame{RoomID: "nowhere"}, wire.RoomNotFound)
		n.refusedByURL(query("roomId", "nowhere"), wire.RoomNotFound)
		n.refused(wire.ClientFrame{RoomID: roomID, Identity: "x"}, wire.Unauthenticated)
		n.walkIn(roomID, "")
		n.refused(wire.ClientFrame{RoomID: roomID}, wire.RoomFull)
		n.refusedByURL(query("roomId", roomID), wire.RoomFull)
		c.occupied(roomID, 1)
	})
}

func TestPermitsThatConfirmNothing(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		n, roomID := c.nodes[0], c.room(roomSpec{Capacity: 5})
		keep, _ := n.walkIn(roomID, "")
		elsewhere := c.room(roomSpec{})
		_, ada := c.user("")
		_, bob := c.user("")
		expired := func(roomID, permit string) {
			t.Helper()
			n.refusedByURL(query("permit", permit), wire.PermitExpired)
			n.refused(wire.ClientFrame{RoomID: roomID, Permit: permit}, wire.PermitExpired)
			n.refusedByURL(query("roomId", roomID, "permit", permit), wire.PermitExpired)
		}
		expired(roomID, "made-up")
		expired(roomID, ".")
		expired(roomID, roomID+".MADEUP")
		expired(roomID, strings.Repeat("x", 10_000))
		used := c.permit(roomID, ada)
		p := n.open(query("permit", used))
		p.expect(wire.TypeJoined)
		expired(roomID, used)

		other := c.permit(roomID, bob)
		n.refused(wire.ClientFrame{RoomID: elsewhere, Permit: other}, wire.PermitExpired)
		n.refusedByURL(query("roomId", elsewhere, "permit", other), wire.PermitExpired)
		n.refused(wire.ClientFrame{RoomID: roomID, Permit: other, Identity: ada}, wire.Forbidden)
		keep.idle(wire.PermitTTL-time.Millisecond, wire.TypeMemberJoined)
		if r, _ := n.get(roomID); r.Reserved != 1 {
			t.Fatalf("%d reserved", r.Reserved)
		}
		keep.idle(2*time.Millisecond, wire.TypeMemberJoined)
		expired(roomID, other) // lapsed
		if r, _ := n.get(roomID); r.Reserved != 0 {
			t.Fatalf("%d reserved", r.Reserved)
		}
	})
}

// Who has nothing but a permit hears of the permit, and who names the room of the room.
func TestPermitOfARoomThatIsGone(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		n, roomID := c.nodes[0], c.room(roomSpec{})
		_, ada := c.user("")
		permit := c.permit(roomID, ada)
		p := n.open(query("permit", permit))
		p.expect(wire.TypeJoined)
		p.json(wire.ClientFrame{Type: wire.TypeLeave})
		p.ends(wire.CloseNormal)
		n.refusedByURL(query("permit", permit), wire.PermitExpired)
		n.refusedByURL(query("permit", "nowhere.MADEUP"), wire.PermitExpired)
		n.refusedByURL(query("roomId", roomID, "permit", permit), wire.RoomNotFound)
		n.refused(wire.ClientFrame{RoomID: roomID, Permit: permit}, wire.RoomNotFound)
	})
}

func TestIdentitiesThatProveNothingAreRefused(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		n, roomID := c.nodes[0], c.room(roomSpec{})
		sign := func(method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
			token, err := jwt.NewWithClaims(method, claims).SignedString(key)
			must(t, err)
			return token
		}
		later, before := time.Now().Add(time.Hour).Unix(), time.Now().Add(-time.Second).Unix()
		good := sign(jwt.SigningMethodHS256, signingKey, jwt.MapClaims{"sub": "ada", "exp": later})
		other, err := identity.NewSigner([]byte(strings.Repeat("another key", 4)), time.Hour)
		must(t, err)
		forged, _, err := other.Make("")
		must(t, err)
		parts := strings.Split(good, ".")
		for name, token := range map[string]string{
			"expired":      sign(jwt.SigningMethodHS256, signingKey, jwt.MapClaims{"sub": "ada", "exp": before}),
			"without exp":  sign(jwt.SigningMethodHS256, signingKey, jwt.MapClaims{"sub": "ada"}),
			"without sub":  sign(jwt.SigningMethodHS256, signingKey, jwt.MapClaims{"exp": later}),
			"system":       sign(jwt.SigningMethodHS256, signingKey, jwt.MapClaims{"sub": "system", "exp": later}),
			"HS512":        sign(jwt.SigningMethodHS512, signingKey, jwt.MapClaims{"sub": "ada", "exp": later}),
			"alg none":     sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, jwt.MapClaims{"sub": "ada", "exp": later}),
			"other key":    forged,
			"unsigned":     parts[0] + "." + parts[1] + ".",
			"two parts":    parts[0] + "." + parts[1],
			"no token":     "ada",
			"long":         strings.Repeat("x", 10_000),
			"other claims": parts[0] + "." + strings.Split(forged, ".")[1] + "." + parts[2],
		} {
			t.Log(name)
			n.refused(wire.ClientFrame{RoomID: roomID, Identity: token}, wire.Unauthenticated)
			n.refusedByURL(query("roomId", roomID, "identity", token), wire.Unauthenticated)
		}
		if _, f := n.walkIn(roomID, good); f.UserID != "ada" || f.Identity != "" {
			t.Fatalf("JOINED is %s", show(f))
		}
	})
}

func TestWithoutWalkInOnlyOnesOwnSeatIsTaken(t *testing.T) {
	both(t, shape{configure: func(cfg *gateway.Config) { cfg.WalkIn = false }}, func(t *testing.T, c *cluster) {
		n, roomID := c.nodes[0], c.room(roomSpec{})
		_, token := c.user("")
		n.refused(wire.ClientFrame{RoomID: roomID}, wire.Forbidden)
		n.refusedByURL(query("roomId", roomID, "identity", token), wire.Forbidden)
		first := n.open(query("permit", c.permit(roomID, token)))
		first.expect(wire.TypeJoined)
		n.walkIn(roomID, token)
		first.ends(wire.CloseReplaced)
		c.occupied(roomID, 1)
	})
}

func TestOriginThatIsNotAllowedGets403BeforeTheUpgrade(t *testing.T) {
	allowed, err := origin.Parse("app.example.com, *.friends.example")
	must(t, err)
	both(t, shape{configure: func(cfg *gateway.Config) { cfg.Origins = allowed }}, func(t *testing.T, c *cluster) {
		n := c.nodes[0]
		for o, want := range map[string]int{
			"https://app.example.com": 101, "https://a.friends.example": 101, n.url: 101,
			"https://evil.example": 403, "https://app.example.com.evil.example": 403, "null": 403,
		} {
			if _, resp := n.try("/chat", http.Header{"Origin": {o}}, nil); resp.StatusCode != want {
				t.Errorf("origin %s: %s, want %d", o, resp.Status, want)
			}
		}
		if _, resp := n.try("/chat", http.Header{"Origin": {n.url, "https://evil.example"}}, nil); resp.StatusCode != http.StatusForbidden {
			t.Errorf("two origins: %s", resp.Status)
		}
	})
}

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
			if code := p.end(); code != 1002 && code != 1006 {
				t.Errorf("%s: closed with %d", name, code)
			}
		}
		other.say("", "unaffected")
		for {
			if f := other.next(); f.Type == wire.TypeMessage {
				break
			}
		}
	})
}

func TestTenthMalformedFrameCloses(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		n, roomID := c.nodes[0], c.room(roomSpec{})
		bad := []string{
			`{`, `[]`, `"x"`, `null`, ``, `{} {}`, `{"type":"NONSENSE"}`, `{"type":1}`, `{}`,
			`{"type":"MESSAGE"}`, `{"type":"MESSAGE","id":"` + strings.Repeat("x", 65) + `","body":1}`,
			`{"type":"MESSAGE","id":7,"body":1}`, `{"type":"join"}`,
		}
		joined, _ := n.walkIn(roomID, "")
		for i, text := range bad {
			if i == wire.MaxMalformedFrames-1 {
				joined.say("", "still here")
				joined.heard("still here")
				joined.text(text)
				joined.refusal(wire.BadRequest)
				joined.ends(wire.CloseBadRequest)
				joined, _ = n.walkIn(roomID, "")
				continue
			}
			joined.text(text)
			joined.refusal(wire.BadRequest)
		}
		p := n.open("/chat")
		for range wire.MaxMalformedFrames {
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
		p.say("", "no id") // and an empty one is none
		p.say("", "no id")
		first, second := p.heard("no id"), p.heard("no id")
		if first.ID != "" || second.Seq != first.Seq+1 {
			t.Fatalf("got %s and %s", show(first), show(second))
		}
	})
}

func TestPingIsAnsweredToWhoHasSpokenTooMuch(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		p, _ := c.nodes[0].walkIn(c.room(roomSpec{}), "")
		for range 41 {
			p.say("", 1)
		}
		for range 40 { // PINGs have an allowance of their own
			p.text(`{"type":"PING"}`)
		}
		p.text(`{"type":"PING"}`)
		got := map[string]int{}
		for range 40 + 1 + 40 + 1 {
			f := p.next()
			got[f.Type+string(f.Code)]++
		}
		if got[wire.TypeMessage] != 40 || got[wire.TypePong] != 40 || got[wire.TypeError+string(wire.RateLimited)] != 2 {
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

func TestFloodGetsRateLimitedWithIDAndThen4429(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		p, _ := c.nodes[0].walkIn(roomID, "")
		// The burst passes, one more does not.
		for i := range 41 {
			p.say("m"+string(rune('A'+i)), i)
		}
		var echoes, limited int
		for range 41 {
			switch f := p.next(); {
			case f.Type == wire.TypeMessage:
				echoes++
			case f.Code == wire.RateLimited && f.ID == "m"+string(rune('A'+40)):
				limited++
			default:
				t.Fatalf("got %s", show(f))
			}
		}
		if echoes != 40 || limited != 1 {
			t.Fatalf("%d echoes, %d refusals", echoes, limited)
		}
		p.quiet(4 * time.Second) // the flood is over, and the burst allowed again
		began := time.Now()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for time.Since(began) < 15*time.Second {
				p.say("flood", "x")
				time.Sleep(25 * time.Millisecond)
			}
		}()
		if code := p.endBy(began.Add(14 * time.Second)); code != int(wire.CloseRateLimited) {
			t.Fatalf("closed with %d", code)
		}
		if d := time.Since(began); d < wire.FloodPatience || d > wire.FloodPatience+4*time.Second {
			t.Fatalf("closed after %v", d)
		}
		<-ended
	})
}

func TestSustainedRateIsAllowed(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		p, _ := c.nodes[0].walkIn(c.room(roomSpec{}), "")
		for range 20 * 20 {
			p.say("", "x")
			p.heard("x")
			time.Sleep(50 * time.Millisecond)
		}
	})
}

func TestRateOfZeroIsNoLimit(t *testing.T) {
	virtual(t, shape{configure: unlimited}, func(t *testing.T, c *cluster) {
		p, _ := c.nodes[0].walkIn(c.room(roomSpec{}), "")
		for i := range 600 {
			p.say("", "x")
			if i >= 50 {
				p.heard("x")
			}
		}
	})
}

func TestNoJoinWithinTenSecondsCloses(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		began := time.Now()
		silent := c.nodes[0].open("/chat")
		pinging := c.nodes[0].open("/chat")
		partial := c.nodes[0].open("/chat")
		partial.raw(encodeFrame(final|opText, []byte(`{"type":"JOIN","roomId":"x"}`))[:9])
		for range 9 {
			time.Sleep(time.Second)
			pinging.sync()
		}
		for _, p := range []*peer{silent, pinging, partial} {
			p.ends(wire.CloseJoinTimeout)
			if d := time.Since(began); d < wire.JoinTimeout || d > wire.JoinTimeout+time.Second {
				t.Fatalf("closed after %v", d)
			}
		}
	})
}

func TestJoinJustInTimeKeepsTheSocket(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		p := c.nodes[0].open("/chat")
		p.quiet(wire.JoinTimeout - 10*time.Millisecond)
		p.join(wire.ClientFrame{RoomID: c.room(roomSpec{})})
		p.quiet(time.Minute)
		p.sync()
	})
}
