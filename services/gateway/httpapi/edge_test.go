package httpapi

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/gateway/origin"
)

func withOrigins(t *testing.T, list string) func(*Config) {
	t.Helper()
	policy, err := origin.Parse(list)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *Config) { c.Origins = policy }
}

func TestCORSAnswersTheAllowedOriginsAndNoOthers(t *testing.T) {
	g := newGateway(t, withOrigins(t, "app.example.com"))
	for o, allowed := range map[string]bool{
		"https://app.example.com": true, g.url: true, "https://evil.example": false, "null": false,
	} {
		want := ""
		if allowed {
			want = o
		}
		preflight := g.do("OPTIONS", "/v1/rooms/lobby/permits", "", "Origin", o,
			"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,content-type")
		if got := preflight.header.Get("Access-Control-Allow-Origin"); got != want || preflight.status != 204 {
			t.Errorf("preflight of %s: %d, %q", o, preflight.status, got)
		}
		for _, a := range []answer{g.do("GET", "/v1/rooms/lobby", "", "Origin", o), g.do("GET", "/v1/nothing", "", "Origin", o)} {
			if got := a.header.Get("Access-Control-Allow-Origin"); got != want || !slices.Contains(a.header.Values("Vary"), "Origin") {
				t.Errorf("answer to %s: %q, Vary %q", o, got, a.header.Values("Vary"))
			}
			if a.header.Get("Access-Control-Allow-Credentials") != "" {
				t.Error("credentials are allowed")
			}
			if exposed := a.header.Get("Access-Control-Expose-Headers"); allowed && exposed != "Location, Retry-After" {
				t.Errorf("exposed: %q", exposed)
			}
		}
	}
}

// Only browsers write Access-Control-Request-Headers sorted and in lower case.
func TestAPreflightIsToldWhatIsAllowedWhateverItAsksFor(t *testing.T) {
	g := newGateway(t, withOrigins(t, "app.example.com"))
	for _, asked := range []struct{ method, headers string }{
		{"POST", "authorization,content-type"},
		{"POST", "content-type,authorization"},
		{"POST", "Content-Type, Authorization"},
		{"DELETE", ""},
		{"PUT", "x-made-up"},
	} {
		header := []string{"Origin", "https://app.example.com", "Access-Control-Request-Method", asked.method}
		if asked.headers != "" {
			header = append(header, "Access-Control-Request-Headers", asked.headers)
		}
		a := g.do("OPTIONS", "/v1/rooms", "", header...)
		if a.status != 204 || a.header.Get("Access-Control-Allow-Methods") != "GET, POST, DELETE" ||
			a.header.Get("Access-Control-Allow-Headers") != "Authorization, Content-Type" || a.header.Get("Access-Control-Max-Age") != "600" {
			t.Errorf("%v: %d %v", asked, a.status, a.header)
		}
	}
	if a := g.do("OPTIONS", "/v1/rooms", "", "Origin", "https://app.example.com"); a.status != 405 {
		t.Errorf("OPTIONS that is no preflight: %d", a.status)
	}
}

func TestAClientOverItsRateIsTurnedAway(t *testing.T) {
	g := newGateway(t, func(c *Config) {
		withOrigins(t, "*")(c)
		c.Rate = RateLimit{PerSecond: 0.1, Burst: 2, TrustProxy: true}
	})
	ask := func(forwarded string) answer {
		return g.do("GET", "/v1/rooms", "", "X-Forwarded-For", forwarded, "Origin", "https://a.example")
	}
	for range 2 {
		if a := ask("6.6.6.6, 192.0.2.1"); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	a := ask("7.7.7.7, 192.0.2.1") // what the client itself sent changes nothing
	a.expectProblem(t, 429, wire.RateLimited)
	if a.header.Get("Retry-After") != "10" || a.header.Get("Access-Control-Allow-Origin") == "" {
		t.Errorf("got %v", a.header)
	}
	if a := ask("192.0.2.2"); a.status != 200 {
		t.Errorf("another client: %d", a.status)
	}
}

func TestTheClientIsWhoTheTrustedProxySays(t *testing.T) {
	for _, c := range []struct {
		rule, remote, forwarded string
		trust                   bool
		want                    string
	}{
		{"no proxy", "192.0.2.1:5", "198.51.100.1", false, "192.0.2.1"},
		{"trusted", "192.0.2.1:5", "198.51.100.1", true, "198.51.100.1"},
		{"the last entry", "192.0.2.1:5", "1.1.1.1, 198.51.100.1", true, "198.51.100.1"},
		{"trusted, absent", "192.0.2.1:5", "", true, "192.0.2.1"},
		{"trusted, with a port", "192.0.2.1:5", "198.51.100.1:6", true, "198.51.100.1"},
		{"trusted, IPv6 with a port", "192.0.2.1:5", "[2001:db8::1]:6", true, "2001:db8::/64"},
		{"trusted, no address", "192.0.2.1:5", "unknown", true, "192.0.2.1"},
		{"IPv6 by its /64", "[2001:db8::1234:5]:6", "", false, "2001:db8::/64"},
		{"IPv4 in IPv6", "[::ffff:192.0.2.1]:6", "", false, "192.0.2.1"},
		{"IPv6 with a zone", "[fe80::1%eth0]:6", "", false, "fe80::/64"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = c.remote
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		if got := (RateLimit{TrustProxy: c.trust}).clientOf(r); got != c.want {
			t.Errorf("%s: %s, want %s", c.rule, got, c.want)
		}
	}
}

// An alarm asks by how much the count of a route's defects grew.
func TestDefectsOfEachRouteAreCountedFromZero(t *testing.T) {
	registry := metrics.NewSet()
	g := newGateway(t, func(c *Config) { c.Metrics = registry })
	var spec struct {
		Paths map[string]map[string]any
	}
	if err := json.Unmarshal([]byte(g.do("GET", "/v1/openapi.json", "").body), &spec); err != nil || len(spec.Paths) < 4 {
		t.Fatalf("error %v, paths %v", err, spec.Paths)
	}
	routes := []string{"GET /healthz", "GET /readyz", "GET /v1/openapi.json", "none"}
	for path, operations := range spec.Paths {
		for method := range operations {
			routes = append(routes, strings.ToUpper(method)+" "+path)
		}
	}
	var text strings.Builder
	registry.WritePrometheus(&text)
	for _, route := range routes {
		if line := `anteroom_http_requests_total{route="` + route + `",status="500"} 0`; !strings.Contains(text.String(), line+"\n") {
			t.Errorf("no line %s in\n%s", line, text.String())
		}
	}
}

func TestMetricsNameRoutesNotPaths(t *testing.T) {
	registry := metrics.NewSet()
	g := newGateway(t, func(c *Config) { c.Metrics = registry })
	g.do("GET", "/v1/rooms/lobby", "")
	g.do("GET", "/v1/rooms/other", "")
	g.do("GET", "/v1/made/up", "")
	var text strings.Builder
	registry.WritePrometheus(&text)
	for _, line := range []string{
		`anteroom_http_requests_total{route="GET /v1/rooms/{roomId}",status="200"} 2`,
		`anteroom_http_requests_total{route="none",status="404"} 1`,
		`anteroom_http_duration_seconds_bucket{route="GET /v1/rooms/{roomId}",le="+Inf"} 2`,
		`anteroom_http_duration_seconds_count{route="none"} 1`,
	} {
		if !strings.Contains(text.String(), line+"\n") {
			t.Errorf("no line %s in\n%s", line, text.String())
		}
	}
	for _, path := range []string{"lobby", "other", "made"} {
		if strings.Contains(text.String(), path) {
			t.Errorf("%s is in\n%s", path, text.String())
		}
	}
}

func TestTheOpenAPIDocumentHasEveryOperationAndItsErrors(t *testing.T) {
	g := newGateway(t, nil)
	a := g.do("GET", "/v1/openapi.json", "")
	var doc struct {
		OpenAPI string `json:"openapi"`
		Paths   map[string]map[string]struct {
			OperationID string                `json:"operationId"`
			Security    []map[string][]string `json:"security"`
			RequestBody *struct {
				Required bool `json:"required"`
				Content  map[string]struct {
					Example any `json:"example"`
				} `json:"content"`
			} `json:"requestBody"`
			Responses map[string]struct {
				Content map[string]struct {
					Example  any            `json:"example"`
					Examples map[string]any `json:"examples"`
				} `json:"content"`
			} `json:"responses"`
		} `json:"paths"`
		Components struct {
			Schemas map[string]struct {
				Required   []string                  `json:"required"`
				Properties map[string]map[string]any `json:"properties"`
			} `json:"schemas"`
			SecuritySchemes map[string]map[string]any `json:"securitySchemes"`
		} `json:"components"`
	}
	if err := json.Unmarshal([]byte(a.body), &doc); err != nil || a.status != 200 || !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Fatalf("%d %v %.300s", a.status, err, a.body)
	}
	for _, c := range []struct {
		method, path, success string
		codes                 string
	}{
		{"post", "/v1/identities", "201", "BAD_REQUEST INTERNAL RATE_LIMITED UNAVAILABLE"},
		{"post", "/v1/rooms", "201", "BAD_REQUEST INTERNAL RATE_LIMITED ROOM_EXISTS UNAVAILABLE"},
		{"get", "/v1/rooms", "200", "BAD_REQUEST INTERNAL RATE_LIMITED UNAVAILABLE"},
		{"get", "/v1/rooms/{roomId}", "200", "BAD_REQUEST INTERNAL RATE_LIMITED ROOM_NOT_FOUND UNAVAILABLE"},
		{"post", "/v1/rooms/{roomId}/permits", "201", "BAD_REQUEST INTERNAL RATE_LIMITED ROOM_FULL ROOM_NOT_FOUND UNAUTHENTICATED UNAVAILABLE"},
		{"delete", "/v1/rooms/{roomId}/permits/{permit}", "204", "BAD_REQUEST INTERNAL RATE_LIMITED UNAVAILABLE"},
	} {
		op, ok := doc.Paths[c.path][c.method]
		if !ok || op.OperationID == "" {
			t.Errorf("%s %s is missing", c.method, c.path)
			continue
		}
		var codes []string
		for status, answer := range op.Responses {
			if status == c.success {
				if status != "204" && answer.Content["application/json"].Example == nil {
					t.Errorf("%s: no example of the answer", op.OperationID)
				}
				continue
			}
			for code := range answer.Content["application/problem+json"].Examples {
				codes = append(codes, code)
			}
		}
		if slices.Sort(codes); strings.Join(codes, " ") != c.codes {
			t.Errorf("%s: codes %v, want %s", op.OperationID, codes, c.codes)
		}
		if b := op.RequestBody; b != nil && (b.Required != (op.OperationID == "createRoom") || b.Content["application/json"].Example == nil) {
			t.Errorf("%s: request body %+v", op.OperationID, b)
		}
		if (len(op.Security) > 0) != (op.OperationID == "reservePermit") {
			t.Errorf("%s: security %v", op.OperationID, op.Security)
		}
	}
	if len(doc.Paths) != 5 || doc.Components.SecuritySchemes["identity"]["scheme"] != "bearer" {
		t.Errorf("%d paths, schemes %v", len(doc.Paths), doc.Components.SecuritySchemes)
	}
	schemas := doc.Components.Schemas
	if p := schemas["CreateRoom"].Properties; p["capacity"]["maximum"] != float64(wire.MaxCapacity) || p["title"]["maxLength"] != float64(wire.MaxTitleLen) {
		t.Errorf("limits are not those of package wire: %v", p)
	}
	if got := schemas["CreateRoom"].Required; !slices.Equal(got, []string{"capacity"}) {
		t.Errorf("CreateRoom requires %v", got)
	}
	if got := schemas["Problem"].Properties["code"]["enum"].([]any); len(got) != 10 {
		t.Errorf("codes %v", got)
	}
	if strings.Contains(a.body, `"422"`) || strings.Contains(a.body, "$schema") {
		t.Error("huma's own errors or links are in the document")
	}
}

func TestTheServerBoundsWhatAClientMayTake(t *testing.T) {
	s := NewServer(http.NotFoundHandler(), slog.Default())
	if s.ReadHeaderTimeout.Seconds() != 10 || s.MaxHeaderBytes != 12<<10 || s.IdleTimeout == 0 || s.ReadTimeout != headerTimeout+RequestTimeout || s.WriteTimeout == 0 {
		t.Errorf("got %+v", s)
	}
}

func FuzzDecodeBody(f *testing.F) {
	f.Add([]byte(`{"capacity":1,"roomId":"a"}`))
	f.Add([]byte(`{"capacity":1}{}`))
	f.Add([]byte(`{"title":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var strict, plain createRoomBody
		if decodeBody(data, &strict) != nil {
			return
		}
		if err := json.Unmarshal(data, &plain); err != nil {
			t.Fatalf("accepted %q: %v", data, err)
		}
		if string(mustJSON(strict)) != string(mustJSON(plain)) {
			t.Fatalf("%q: %s, encoding/json has %s", data, mustJSON(strict), mustJSON(plain))
		}
	})
}

// A flood must not lock its address out for longer than until the next token comes.
func TestRequestsThatAreRefusedTakeNoTokens(t *testing.T) {
	c := newClients(RateLimit{PerSecond: 10, Burst: 1})
	if c.take("address") != 0 {
		t.Fatal("the first request is refused")
	}
	var flood sync.WaitGroup
	for range 8 {
		flood.Go(func() {
			for range 20_000 {
				c.take("address")
			}
		})
	}
	flood.Wait()
	if wait := c.take("address"); wait > 100*time.Millisecond {
		t.Errorf("after a flood, the address must wait %v for the next tenth of a second", wait)
	}
}
