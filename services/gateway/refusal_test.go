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

// refused fails unless a join on a new socket gets ERROR and the matching close code.
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
		for _, target := range []string{query("roomId", ""), query("permit", ""), query("roomId", "", "nickname", "Ada"), "/chat?roomId=" + roomID + "&nickname=100%", "/chat?roomId=a;nickname=b"} {
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
		n.refusedByURL(query("permit", "\xff"), wire.PermitExpired)
		n.refusedByURL(query("roomId", roomID, "permit", "\xff"), wire.PermitExpired)
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

// A client that names only a permit is told about the permit. One that names the room is told
// about the room.
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
			_, resp := n.try("/chat", http.Header{"Origin": {o}}, nil)
			if resp.StatusCode != want {
				t.Errorf("origin %s: %s, want %d", o, resp.Status, want)
			}
			if kind := resp.Header.Get("Content-Type"); want == 403 && kind != "application/problem+json" {
				t.Errorf("origin %s: refused as %q", o, kind)
			}
		}
		if _, resp := n.try("/chat", http.Header{"Origin": {n.url, "https://evil.example"}}, nil); resp.StatusCode != http.StatusForbidden {
			t.Errorf("two origins: %s", resp.Status)
		}
	})
}
