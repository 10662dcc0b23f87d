package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/goleak"

	"github.com/anteroom-chat/anteroom/pkg/rpc"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAnIdentityIsMadeWithAndWithoutABody(t *testing.T) {
	g := newGateway(t, nil)
	for body, nickname := range map[string]string{"": "", "{}": "", `{"nickname":"Zoë"}`: "Zoë"} {
		a := g.do("POST", "/v1/identities", body)
		if a.status != 201 {
			t.Fatalf("%q: %d %s", body, a.status, a.body)
		}
		m := a.json(t)
		id, err := g.signer.Verify(m["identity"].(string))
		if err != nil || id.UserID != m["userId"] || id.Nickname != nickname || m["expireTime"] != wire.FormatTime(id.Expires) || len(m) != 3 {
			t.Errorf("%q: %s, %+v, %v", body, a.body, id, err)
		}
	}
}

func TestARoomIsCreatedAsAsked(t *testing.T) {
	g := newGateway(t, nil)
	a := g.do("POST", "/v1/rooms", `{"roomId":"lobby","title":"Größe <1>","capacity":8,"presence":"count","emptyTimeoutSeconds":5,"departureTimeoutSeconds":0}`)
	if a.status != 201 || a.header.Get("Location") != "/v1/rooms/lobby" {
		t.Fatalf("%d %v %s", a.status, a.header, a.body)
	}
	want := `{"roomId":"lobby","epoch":"e1","title":"Größe <1>","capacity":8,"reserved":0,"occupied":0,"presence":"count","createTime":"2027-01-02T03:04:05.006Z"}`
	if strings.TrimSpace(a.body) != want {
		t.Errorf("got  %s\nwant %s", a.body, want)
	}
	c := g.rooms.created
	if c.GetEmptyTimeoutSeconds() != 5 || c.DepartureTimeoutSeconds == nil || c.GetPresence() != roomv1.Presence_PRESENCE_COUNT || len(c.GetRequestId()) < 20 {
		t.Errorf("the room service got %v", c)
	}
	first := c.GetRequestId()
	if a = g.do("POST", "/v1/rooms", `{"capacity":8}`); a.status != 201 || a.json(t)["roomId"] != "made" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if c = g.rooms.created; c.EmptyTimeoutSeconds != nil || c.DepartureTimeoutSeconds != nil || c.GetRequestId() == first {
		t.Errorf("the room service got %v", c)
	}
}

func TestLengthsCountCharacters(t *testing.T) {
	g := newGateway(t, nil)
	for title, want := range map[string]int{strings.Repeat("😀", 100): 201, strings.Repeat("a", 101): 400} {
		if a := g.do("POST", "/v1/rooms", string(mustJSON(map[string]any{"capacity": 1, "title": title}))); a.status != want {
			t.Errorf("%d bytes: %d %s", len(title), a.status, a.body)
		}
	}
}

func TestRoomsAreListedAndReadAsTheyAre(t *testing.T) {
	g := newGateway(t, nil)
	if a := g.do("GET", "/v1/rooms", ""); a.status != 200 || strings.TrimSpace(a.body) != `{"rooms":[],"nextPageToken":""}` {
		t.Errorf("an empty list: %d %s", a.status, a.body)
	}
	if g.rooms.listed.GetPageSize() != 0 {
		t.Error("the default page size is not the room service's")
	}
	g.rooms.rooms = []*roomv1.Room{{RoomId: "b"}, {RoomId: "a"}}
	a := g.do("GET", "/v1/rooms?pageSize=2&pageToken=tok", "")
	var list roomList
	if err := json.Unmarshal([]byte(a.body), &list); err != nil || len(list.Rooms) != 2 || list.Rooms[0].RoomID != "b" || list.NextPageToken != "tok" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if g.rooms.listed.GetPageSize() != 2 {
		t.Errorf("asked for %v", g.rooms.listed)
	}
	m := g.do("GET", "/v1/rooms/lobby", "").json(t)
	want := []string{"capacity", "createTime", "epoch", "occupied", "presence", "reserved", "roomId", "title"}
	if got := slices.Sorted(maps.Keys(m)); !slices.Equal(got, want) || m["reserved"] != 1.0 || m["occupied"] != 2.0 || m["presence"] != "count" {
		t.Errorf("got %v", m)
	}
}

func TestAPermitIsReservedInTheIdentitysName(t *testing.T) {
	g := newGateway(t, nil)
	for _, body := range []string{"", "{}"} {
		a := g.do("POST", "/v1/rooms/lobby/permits", body, "Authorization", g.bearer())
		m := a.json(t)
		if a.status != 201 || m["permit"] != "lobby.secret" || m["roomId"] != "lobby" || m["userId"] != g.rooms.reserve.GetUserId() ||
			m["expireTime"] != "2027-01-02T03:04:05.006Z" || m["ttlSeconds"] != 15.0 || m["url"] != "/chat?permit=lobby.secret" || len(m) != 6 {
			t.Errorf("%d %s", a.status, a.body)
		}
		if g.rooms.reserve.GetNickname() != "Ann" || !strings.HasPrefix(g.rooms.reserve.GetUserId(), "u_") {
			t.Errorf("the room service got %v", g.rooms.reserve)
		}
	}
}

func TestAPermitNeedsAnIdentity(t *testing.T) {
	g := newGateway(t, nil)
	good := g.bearer()
	for rule, header := range map[string]string{
		"none": "", "another scheme": "Basic abc", "no token": "Bearer", "empty": "Bearer ", "made up": "Bearer a.b.c",
		"changed": good[:len(good)-8] + "AAAAAAAA", "without scheme": strings.TrimPrefix(good, "Bearer "),
	} {
		a := g.do("POST", "/v1/rooms/lobby/permits", "", "Authorization", header)
		if a.expectProblem(t, 401, wire.Unauthenticated); a.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: no WWW-Authenticate", rule)
		}
	}
	if a := g.do("POST", "/v1/rooms/lobby/permits", "", "Authorization", strings.Replace(good, "Bearer", "bearer", 1)); a.status != 201 {
		t.Errorf("the scheme's case counts: %d %s", a.status, a.body)
	}
}

func TestCancellingWhatIsNoPermitOfTheRoomIsDone(t *testing.T) {
	g := newGateway(t, nil)
	for path, calls := range map[string]int{
		"/v1/rooms/lobby/permits/lobby.secret": 1, "/v1/rooms/lobby/permits/other.secret": 0,
		"/v1/rooms/lobby/permits/nonsense": 0, "/v1/rooms/lobby/permits/lobby.%20": 0, "/v1/rooms/a%20b/permits/a%20b.x": 0,
	} {
		g.rooms.cancels = 0
		if a := g.do("DELETE", path, ""); a.status != 204 || a.body != "" || g.rooms.cancels != calls {
			t.Errorf("%s: %d %q after %d calls", path, a.status, a.body, g.rooms.cancels)
		}
	}
	g.do("DELETE", "/v1/rooms/lobby/permits/lobby.secret", `{"reason":"x"}`).expectProblem(t, 400, wire.BadRequest)
	if a := g.do("DELETE", "/v1/rooms/lobby/permits/lobby.secret", `{}`); a.status != 204 {
		t.Errorf("an empty object: %d %s", a.status, a.body)
	}
	for _, code := range []wire.Code{wire.RoomNotFound, wire.PermitExpired} {
		g.rooms.fail(wire.Errorf(code, "gone"))
		if a := g.do("DELETE", "/v1/rooms/lobby/permits/lobby.secret", ""); a.status != 204 {
			t.Errorf("%s: %d %s", code, a.status, a.body)
		}
	}
	g.rooms.fail(wire.Errorf(wire.Unavailable, "Redis is out of reach"))
	g.do("DELETE", "/v1/rooms/lobby/permits/lobby.secret", "").expectProblem(t, 503, wire.Unavailable)
}

func TestEveryCodeOfTheTableIsAProblem(t *testing.T) {
	g := newGateway(t, nil)
	for _, code := range []wire.Code{
		wire.BadRequest, wire.Unauthenticated, wire.Forbidden, wire.RoomNotFound, wire.RoomExists,
		wire.RoomFull, wire.PermitExpired, wire.RateLimited, wire.Unavailable, wire.Internal,
	} {
		g.rooms.fail(wire.Errorf(code, "detail of %s", code))
		for _, a := range []answer{
			g.do("GET", "/v1/rooms/lobby", ""), g.do("GET", "/v1/rooms", ""), g.do("POST", "/v1/rooms", `{"capacity":1}`),
			g.do("POST", "/v1/rooms/lobby/permits", "", "Authorization", g.bearer()),
		} {
			a.expectProblem(t, code.Translate().HTTP, code)
			if m := a.json(t); m["detail"] != "detail of "+string(code) || m["title"] != code.Translate().Title || m["type"] != "urn:anteroom:error:"+string(code) {
				t.Errorf("got %s", a.body)
			}
		}
	}
}

func TestADefectTellsNothingAndIsLogged(t *testing.T) {
	g := newGateway(t, nil)
	g.rooms.fail(errors.New("secret"))
	a := g.do("GET", "/v1/rooms/lobby", "")
	a.expectProblem(t, 500, wire.Internal)
	if strings.Contains(a.body, "secret") || strings.Count(g.log.String(), "operation=getRoom") != 1 {
		t.Errorf("answered %s, logged %s", a.body, g.log)
	}
}

func TestARoomServiceOutOfReachIsUnavailable(t *testing.T) {
	conn, err := rpc.Dial("127.0.0.1:1", rpc.ClientConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	g := newGateway(t, func(c *Config) { c.Rooms = roomv1.NewRoomServiceClient(conn) })
	g.do("GET", "/v1/rooms/lobby", "").expectProblem(t, 503, wire.Unavailable)
	g.do("POST", "/v1/rooms", `{"capacity":1}`).expectProblem(t, 503, wire.Unavailable)
	g.do("POST", "/v1/rooms/lobby/permits", "", "Authorization", g.bearer()).expectProblem(t, 503, wire.Unavailable)
}

func TestAPanicIsAnInternalErrorOfOneRequest(t *testing.T) {
	set := metrics.NewSet()
	g := newGateway(t, func(c *Config) { c.Rooms, c.Metrics = panics{}, set })
	g.do("GET", "/v1/rooms/lobby", "").expectProblem(t, 500, wire.Internal)
	var page strings.Builder
	set.WritePrometheus(&page)
	if want := `anteroom_http_requests_total{route="GET /v1/rooms/{roomId}",status="500"} 1`; !strings.Contains(page.String(), want) {
		t.Errorf("not counted: %s", page.String())
	}
	if a := g.do("POST", "/v1/identities", ""); a.status != 201 || strings.Count(g.log.String(), "request panicked") != 1 {
		t.Errorf("%d, logged %s", a.status, g.log)
	}
}

func TestAWholeNumberMayBeWrittenWithAPointOrAPower(t *testing.T) {
	g := newGateway(t, nil)
	for number, want := range map[string]float64{"8.0": 8, "1e2": 100, "1.2e1": 12} {
		if a := g.do("POST", "/v1/rooms", `{"capacity":`+number+`}`); a.status != 201 || a.json(t)["capacity"] != want {
			t.Errorf("%s: %d %v", number, a.status, a.json(t))
		}
	}
}

func TestHalfASurrogatePairIsABadRequest(t *testing.T) {
	g := newGateway(t, nil)
	for _, body := range []string{`{"capacity":2,"title":"\ud83d"}`, `{"capacity":2,"title":"\ude00\ud83d"}`} {
		g.do("POST", "/v1/rooms", body).expectProblem(t, 400, wire.BadRequest)
	}
	if a := g.do("POST", "/v1/rooms", `{"capacity":2,"title":"\ud83d\ude00"}`); a.status != 201 || a.json(t)["title"] != "😀" {
		t.Errorf("%d %v", a.status, a.json(t))
	}
}

// panics has no methods.
type panics struct{ roomv1.RoomServiceClient }

func TestBadInputIsBadRequest(t *testing.T) {
	g := newGateway(t, nil)
	long := strings.Repeat("x", 65)
	for _, c := range []struct{ rule, method, path, body string }{
		{"malformed", "POST", "/v1/rooms", `{"capacity":`},
		{"not JSON", "POST", "/v1/rooms", `capacity=1`},
		{"an array", "POST", "/v1/rooms", `[]`},
		{"null", "POST", "/v1/rooms", `null`},
		{"null identity", "POST", "/v1/identities", `null`},
		{"a string", "POST", "/v1/identities", `"x"`},
		{"no body", "POST", "/v1/rooms", ``},
		{"blanks only", "POST", "/v1/rooms", `  `},
		{"unknown field", "POST", "/v1/rooms", `{"capacity":1,"color":"red"}`},
		{"unknown identity field", "POST", "/v1/identities", `{"userId":"u_1"}`},
		{"unknown permit field", "POST", "/v1/rooms/lobby/permits", `{"userId":"u_1"}`},
		{"name in another case", "POST", "/v1/rooms", `{"Capacity":1}`},
		{"empty name", "POST", "/v1/rooms", `{"capacity":1,"":1}`},
		{"a field twice", "POST", "/v1/rooms", `{"capacity":1,"capacity":2}`},
		{"trailing object", "POST", "/v1/rooms", `{"capacity":1}{}`},
		{"trailing text", "POST", "/v1/rooms", `{"capacity":1} x`},
		{"trailing comma", "POST", "/v1/rooms", `{"capacity":1,}`},
		{"capacity missing", "POST", "/v1/rooms", `{}`},
		{"capacity null", "POST", "/v1/rooms", `{"capacity":null}`},
		{"capacity a string", "POST", "/v1/rooms", `{"capacity":"1"}`},
		{"capacity a fraction", "POST", "/v1/rooms", `{"capacity":1.5}`},
		{"capacity 1e99", "POST", "/v1/rooms", `{"capacity":1e99}`},
		{"capacity beyond int64", "POST", "/v1/rooms", `{"capacity":99999999999999999999}`},
		{"capacity beyond int32", "POST", "/v1/rooms", `{"capacity":4294967297}`},
		{"capacity 0", "POST", "/v1/rooms", `{"capacity":0}`},
		{"capacity negative", "POST", "/v1/rooms", `{"capacity":-1}`},
		{"capacity 100,001", "POST", "/v1/rooms", `{"capacity":100001}`},
		{"title a number", "POST", "/v1/rooms", `{"capacity":1,"title":7}`},
		{"title null", "POST", "/v1/rooms", `{"capacity":1,"title":null}`},
		{"title with control characters", "POST", "/v1/rooms", `{"capacity":1,"title":"a\u0000b"}`},
		{"title not UTF-8", "POST", "/v1/rooms", "{\"capacity\":1,\"title\":\"\xff\"}"},
		{"room id empty", "POST", "/v1/rooms", `{"capacity":1,"roomId":""}`},
		{"room id with a space", "POST", "/v1/rooms", `{"capacity":1,"roomId":"a b"}`},
		{"room id of 65", "POST", "/v1/rooms", `{"capacity":1,"roomId":"` + long + `"}`},
		{"presence unknown", "POST", "/v1/rooms", `{"capacity":1,"presence":"some"}`},
		{"presence in another case", "POST", "/v1/rooms", `{"capacity":1,"presence":"FULL"}`},
		{"presence empty", "POST", "/v1/rooms", `{"capacity":1,"presence":""}`},
		{"presence a number", "POST", "/v1/rooms", `{"capacity":1,"presence":1}`},
		{"timeout a string", "POST", "/v1/rooms", `{"capacity":1,"emptyTimeoutSeconds":"60"}`},
		{"too large", "POST", "/v1/rooms", `{"capacity":1,"title":"` + strings.Repeat("a", MaxBodyBytes) + `"}`},
		{"too deep", "POST", "/v1/rooms", `{"title":` + strings.Repeat("[", MaxBodyBytes-9)},
		{"nickname of 41", "POST", "/v1/identities", `{"nickname":"` + strings.Repeat("n", 41) + `"}`},
		{"nickname with control characters", "POST", "/v1/identities", `{"nickname":"a\nb"}`},
		{"nickname an object", "POST", "/v1/identities", `{"nickname":{}}`},
		{"page size 0", "GET", "/v1/rooms?pageSize=0", ""},
		{"page size negative", "GET", "/v1/rooms?pageSize=-1", ""},
		{"page size 101", "GET", "/v1/rooms?pageSize=101", ""},
		{"page size a word", "GET", "/v1/rooms?pageSize=all", ""},
		{"page size a fraction", "GET", "/v1/rooms?pageSize=1.5", ""},
		{"page size overflows", "GET", "/v1/rooms?pageSize=99999999999999999999", ""},
		{"page size wraps round", "GET", "/v1/rooms?pageSize=4294967297", ""},
		{"page token not UTF-8", "GET", "/v1/rooms?pageToken=%ff", ""},
		{"query malformed", "GET", "/v1/rooms?pageToken=%zz", ""},
		{"path id with a space", "GET", "/v1/rooms/a%20b", ""},
		{"path id of 65", "GET", "/v1/rooms/" + long, ""},
		{"path id not UTF-8", "GET", "/v1/rooms/%ff", ""},
		{"path id with a slash", "GET", "/v1/rooms/a%2Fb", ""},
	} {
		t.Run(c.rule, func(t *testing.T) {
			g.t = t
			g.do(c.method, c.path, c.body, "Authorization", "").expectProblem(t, 400, wire.BadRequest)
		})
	}
	g.t = t
	if g.log.Len() > 0 {
		t.Errorf("bad input was logged: %s", g.log)
	}
}

func TestABodyOfExactlyTheLimitPasses(t *testing.T) {
	g := newGateway(t, nil)
	body := `{"capacity":1` + strings.Repeat(" ", MaxBodyBytes-14) + `}`
	if a := g.do("POST", "/v1/rooms", body); len(body) != MaxBodyBytes || a.status != 201 {
		t.Errorf("%d bytes: %d %s", len(body), a.status, a.body)
	}
}

func TestABodyIsJSONByItsTypeToo(t *testing.T) {
	g := newGateway(t, nil)
	for contentType, want := range map[string]int{
		"application/json": 201, "application/json; charset=utf-8": 201, "Application/JSON;charset=UTF-8": 201, "": 201,
		"text/plain": 400, "application/x-www-form-urlencoded": 400, "application/json; charset=latin1": 400,
		"application/problem+json": 400, "application/cbor": 400, "application/json;;": 400, "nonsense/": 400,
	} {
		a := g.do("POST", "/v1/rooms", `{"capacity":1}`, "Content-Type", contentType)
		if a.status != want {
			t.Errorf("%q: %d %s", contentType, a.status, a.body)
		}
		if want == 400 {
			a.expectProblem(t, 400, wire.BadRequest)
		}
	}
	if a := g.do("POST", "/v1/identities", "", "Content-Type", "text/plain"); a.status != 201 {
		t.Errorf("an empty body of another type: %d %s", a.status, a.body)
	}
}

func TestWhatHasNoRouteIsAProblemToo(t *testing.T) {
	g := newGateway(t, nil)
	for _, path := range []string{"/v1/", "/v1/nothing", "/v1/rooms/a/b", "/v1/rooms/", "/v1/openapi.yaml", "/v1/docs", "/elsewhere", "/v1//rooms", "/v1/rooms/lobby//", "/v1/./rooms", "/v1/rooms/../rooms"} {
		g.do("GET", path, "").expectProblem(t, 404, wire.BadRequest)
	}
	for _, c := range [][3]string{
		{"PUT", "/v1/rooms", "GET, HEAD, POST"}, {"DELETE", "/v1/rooms/lobby", "GET, HEAD"},
		{"GET", "/v1/identities", "POST"}, {"GET", "/v1/rooms/a/permits/b", "DELETE"}, {"OPTIONS", "/v1/rooms", "GET, HEAD, POST"},
	} {
		a := g.do(c[0], c[1], "")
		if a.expectProblem(t, 405, wire.BadRequest); a.header.Get("Allow") != c[2] {
			t.Errorf("%s %s: Allow %q", c[0], c[1], a.header.Get("Allow"))
		}
	}
}

func TestAnswersAreJSONWhateverIsAccepted(t *testing.T) {
	g := newGateway(t, nil)
	for _, accept := range []string{"*/*", "text/html", "application/cbor", "application/json;q=0"} {
		if a := g.do("GET", "/v1/rooms/lobby", "", "Accept", accept); a.status != 200 || a.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s %s", accept, a.status, a.header.Get("Content-Type"), a.body)
		}
		g.do("POST", "/v1/rooms", "", "Accept", accept).expectProblem(t, 400, wire.BadRequest)
	}
}

func TestHealthIsAlwaysOkAndReadinessSaysWhyNot(t *testing.T) {
	var down error
	g := newGateway(t, func(c *Config) {
		c.Ready = func(context.Context) error { return down }
		c.Rate = RateLimit{PerSecond: 0.001, Burst: 1} // probes are not limited
	})
	for _, path := range []string{"/healthz", "/readyz", "/healthz"} {
		if a := g.do("GET", path, ""); a.status != 200 {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	down = errors.New("draining")
	a := g.do("GET", "/readyz", "")
	if a.expectProblem(t, 503, wire.Unavailable); !strings.Contains(a.body, "draining") {
		t.Errorf("got %s", a.body)
	}
	if a := g.do("GET", "/healthz", ""); a.status != http.StatusOK {
		t.Errorf("/healthz: %d", a.status)
	}
}
