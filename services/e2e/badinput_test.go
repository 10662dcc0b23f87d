package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
)

// The packages test each of their refusals. This test sends one of each kind through the whole
// system, while another user goes on talking.
func TestBadInputIsRefusedAndDisturbsNobody(t *testing.T) {
	t.Parallel()
	v := start(t, cluster.Options{Settings: []string{"ALLOWED_ORIGINS=app.example.com"}})
	room := v.room(t, client.RoomSpec{RoomID: "taken", Capacity: 8})
	calm := v.join(t, "", room.RoomID, v.identity(t, "Calm"))
	v.badHTTP(t)
	v.badOrigins(t)
	v.badJoins(t)
	v.badFrames(t)
	wantNext(t, calm, calm, "still here")
	v.wantOccupied(t, room.RoomID, 1)
}

func (v *venue) badHTTP(t *testing.T) {
	ann := v.identity(t, "Ann").Identity
	long := strings.Repeat("x", 101)
	for _, row := range []struct {
		name, method, path, identity, body string
		want                               wire.Code
	}{
		{"malformed JSON", "POST", "/v1/rooms", "", `{"capacity":`, wire.BadRequest},
		{"no object", "POST", "/v1/rooms", "", `[]`, wire.BadRequest},
		{"unknown field", "POST", "/v1/rooms", "", `{"capacity":8,"colour":"red"}`, wire.BadRequest},
		{"wrong type", "POST", "/v1/rooms", "", `{"capacity":"8"}`, wire.BadRequest},
		{"no seat", "POST", "/v1/rooms", "", `{"capacity":0}`, wire.BadRequest},
		{"too many seats", "POST", "/v1/rooms", "", `{"capacity":100001}`, wire.BadRequest},
		{"id with a space", "POST", "/v1/rooms", "", `{"capacity":8,"roomId":"a b"}`, wire.BadRequest},
		{"id too long", "POST", "/v1/rooms", "", `{"capacity":8,"roomId":"` + long[:65] + `"}`, wire.BadRequest},
		{"title too long", "POST", "/v1/rooms", "", `{"capacity":8,"title":"` + long + `"}`, wire.BadRequest},
		{"control character", "POST", "/v1/rooms", "", `{"capacity":8,"title":"a\u0007"}`, wire.BadRequest},
		{"nickname too long", "POST", "/v1/identities", "", `{"nickname":"` + long[:41] + `"}`, wire.BadRequest},
		{"id in use", "POST", "/v1/rooms", "", `{"capacity":8,"roomId":"taken"}`, wire.RoomExists},
		{"page too large", "GET", "/v1/rooms?pageSize=101", "", "", wire.BadRequest},
		{"made-up page", "GET", "/v1/rooms?pageToken=made-up", "", "", wire.BadRequest},
		{"no such room", "GET", "/v1/rooms/nowhere", "", "", wire.RoomNotFound},
		{"no seat without a room", "POST", "/v1/rooms/nowhere/permits", ann, "", wire.RoomNotFound},
		{"no identity", "POST", "/v1/rooms/taken/permits", "", "", wire.Unauthenticated},
		{"signature cut", "POST", "/v1/rooms/taken/permits", ann[:len(ann)-4], "", wire.Unauthenticated},
		{"not signed", "POST", "/v1/rooms/taken/permits", unsigned(ann), "", wire.Unauthenticated},
	} {
		t.Run("HTTP/"+row.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(within(t, soon), row.method, v.URL()+row.path, strings.NewReader(row.body))
			must(t, err)
			req.Header.Set("Content-Type", "application/json")
			if row.identity != "" {
				req.Header.Set("Authorization", "Bearer "+row.identity)
			}
			resp, err := http.DefaultClient.Do(req)
			must(t, err)
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			must(t, err)
			var problem struct {
				Status int
				Code   wire.Code
			}
			_ = json.Unmarshal(body, &problem)
			want := row.want.Translate().HTTP
			if resp.StatusCode != want || problem.Status != want || problem.Code != row.want ||
				resp.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("want %d %s, got %s %v %s", want, row.want, resp.Status, resp.Header, body)
			}
		})
	}
}

// unsigned returns a token with the same content, without a signature and with alg "none".
func unsigned(token string) string {
	parts := strings.Split(token, ".")
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + parts[1] + "."
}

func (v *venue) badOrigins(t *testing.T) {
	for origin, allowed := range map[string]bool{
		"https://app.example.com": true, v.URL(): true,
		"https://evil.example": false, "https://app.example.com.evil.example": false, "null": false,
	} {
		t.Run("origin/"+strings.NewReplacer("/", "", v.URL(), "own").Replace(origin), func(t *testing.T) {
			c, err := client.New(v.URL(), client.WithOrigin(origin))
			must(t, err)
			defer c.CloseIdleConnections()
			s, err := c.Open(within(t, soon), client.JoinOptions{})
			if err == nil {
				s.Abort()
			}
			e, refused := errors.AsType[*client.StatusError](err)
			if refused && e.Status != http.StatusForbidden || refused == allowed || !refused && err != nil {
				t.Errorf("got %v", err)
			}
		})
	}
}

func (v *venue) badJoins(t *testing.T) {
	ann, bob := v.identity(t, "Ann"), v.identity(t, "Bob")
	full := v.room(t, client.RoomSpec{Capacity: 1})
	v.join(t, "", full.RoomID, ann)
	permit, err := v.Reserve(within(t, soon), bob.Identity, "taken")
	must(t, err)
	defer func() { must(t, v.CancelPermit(within(t, soon), permit)) }()
	_, secret, err := wire.SplitPermit(permit.Permit)
	must(t, err)
	for _, row := range []struct {
		name string
		join client.JoinOptions
		want wire.Code
	}{
		{"no such room", client.JoinOptions{RoomID: "nowhere", Identity: bob.Identity}, wire.RoomNotFound},
		{"no such room, by the URL", client.JoinOptions{RoomID: "nowhere", Via: client.ViaQuery}, wire.RoomNotFound},
		{"full", client.JoinOptions{RoomID: full.RoomID, Identity: bob.Identity}, wire.RoomFull},
		{"not signed", client.JoinOptions{RoomID: "taken", Identity: unsigned(bob.Identity)}, wire.Unauthenticated},
		{"no permit", client.JoinOptions{Permit: "made-up", Via: client.ViaPermit}, wire.PermitExpired},
		{"a permit of nobody", client.JoinOptions{Permit: "taken.madeup", Via: client.ViaPermit}, wire.PermitExpired},
		{"a permit of another room", client.JoinOptions{Permit: full.RoomID + "." + secret, Via: client.ViaPermit}, wire.PermitExpired},
		{"somebody else's permit", client.JoinOptions{RoomID: "taken", Permit: permit.Permit, Identity: ann.Identity}, wire.Forbidden},
		{"nickname too long", client.JoinOptions{RoomID: "taken", Nickname: strings.Repeat("x", 41)}, wire.BadRequest},
	} {
		t.Run("join/"+row.name, func(t *testing.T) {
			s, err := v.Join(within(t, soon), row.join)
			if err == nil {
				defer s.Abort()
			}
			wantRefusal(t, err, row.want)
		})
	}
}

func (v *venue) badFrames(t *testing.T) {
	text := func(frames ...string) func(*testing.T, *websocket.Conn) {
		return func(t *testing.T, ws *websocket.Conn) {
			for _, f := range frames {
				must(t, ws.Write(within(t, soon), websocket.MessageText, []byte(f)))
			}
		}
	}
	ten := func(f string) []string { return strings.Split(strings.Repeat(f+"\n", 9)+f, "\n") }
	for _, row := range []struct {
		name   string
		write  func(*testing.T, *websocket.Conn)
		errors int // ERROR BAD_REQUEST before the close
		want   wire.CloseCode
	}{
		{"too large", text(`{"type":"PING","body":"` + strings.Repeat("x", wire.DefaultFrameBytes) + `"}`), 0, wire.CloseTooBig},
		{"binary", func(t *testing.T, ws *websocket.Conn) {
			must(t, ws.Write(within(t, soon), websocket.MessageBinary, []byte("{}")))
		}, 0, wire.CloseUnsupported},
		{"not UTF-8", text("{\"type\":\"\xff\"}"), 0, wire.CloseInvalidText},
		{"ten that are no JSON", text(ten("no")...), 10, wire.CloseBadRequest},
		{"ten of no type", text(ten(`{"type":"DANCE"}`)...), 10, wire.CloseBadRequest},
		{"ten before JOIN, which do not count", text(append(ten(`{"type":"MESSAGE","id":"a","body":1}`), ten("no")...)...), 20, wire.CloseBadRequest},
		{"JOIN without a room", text(`{"type":"JOIN"}`), 1, wire.CloseBadRequest},
	} {
		t.Run("frame/"+row.name, func(t *testing.T) {
			ctx := within(t, soon)
			ws, _, err := websocket.Dial(ctx, v.URL()+"/chat", nil)
			must(t, err)
			defer ws.CloseNow()
			row.write(t, ws)
			told, code := readToClose(ctx, t, ws)
			if code != row.want || told != row.errors {
				t.Errorf("closed with %d behind %d ERROR, want %d behind %d", code, told, row.want, row.errors)
			}
		})
	}
	t.Run("frame/a second JOIN leaves the first", func(t *testing.T) {
		room := v.room(t, client.RoomSpec{Capacity: 1})
		s := v.join(t, "", room.RoomID, v.identity(t, ""))
		must(t, s.SendRaw(within(t, soon), []byte(`{"type":"JOIN","roomId":"taken"}`)))
		if f, _ := receive(t, s, soon, wire.TypeError); f.Code != wire.BadRequest {
			t.Errorf("got %+v", f)
		}
		wantNext(t, s, s, "still in the first room")
	})
}

func TestASocketThatDoesNotJoinIsClosed(t *testing.T) {
	t.Parallel()
	v := start(t, cluster.Options{Rooms: 1, Gateways: 1})
	began := time.Now()
	s, err := v.Open(within(t, soon), client.JoinOptions{})
	must(t, err)
	t.Cleanup(s.Abort)
	wantClose(t, s, wire.JoinTimeout+soon, wire.CloseJoinTimeout) // 4408
	waited := time.Since(began)
	took(t, "a socket without JOIN is closed (10 s)", waited)
	if waited < wire.JoinTimeout {
		t.Errorf("closed after %v", waited)
	}
}

// readToClose counts the ERROR frames up to the close. All must have the code BAD_REQUEST.
func readToClose(ctx context.Context, t *testing.T, ws *websocket.Conn) (told int, code wire.CloseCode) {
	t.Helper()
	for {
		_, data, err := ws.Read(ctx)
		if err != nil {
			return told, wire.CloseCode(websocket.CloseStatus(err))
		}
		var f wire.ServerFrame
		must(t, json.Unmarshal(data, &f))
		if f.Type != wire.TypeError || f.Code != wire.BadRequest {
			t.Errorf("got %s", data)
		}
		told++
	}
}
