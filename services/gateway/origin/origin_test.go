package origin

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestOriginsAreAllowed(t *testing.T) {
	for _, c := range []struct {
		rule, patterns, origin string
		want                   bool
	}{
		{"the page's own host", "", "https://chat.example.com", true},
		{"the own host, whatever its case", "", "https://CHAT.example.com", true},
		{"no other host by default", "", "https://evil.example", false},
		{"no other port by default", "", "https://chat.example.com:8443", false},
		{"a host", "app.example.com", "https://app.example.com", true},
		{"a host by any scheme", "app.example.com", "http://app.example.com", true},
		{"a host in another case", "App.Example.com", "https://aPP.example.com", true},
		{"no host that only ends so", "example.com", "https://evilexample.com", false},
		{"no host that only begins so", "example.com", "https://example.com.evil.test", false},
		{"a subdomain", "*.example.com", "https://a.b.example.com", true},
		{"no bare domain for a subdomain pattern", "*.example.com", "https://example.com", false},
		{"a port counts", "app.example.com", "https://app.example.com:8443", false},
		{"any port", "localhost:*", "http://localhost:5173", true},
		{"any port, the default one too", "localhost:*", "http://localhost", true},
		{"any port of that host only", "localhost:*", "http://localhost.evil.test", false},
		{"an IPv6 host", `\[::1\]:*`, "http://[::1]:5173", true},
		{"an IPv6 host as one writes it", "[::1]:*", "http://[::1]:5173", true},
		{"an IPv6 origin", "http://[::1]:5173", "http://[::1]:5173", true},
		{"no other for an IPv6 host", "http://[::1]:5173, [::1]:3000", "http://1:3000", false},
		{"a class of characters", "[ab].example.com", "https://b.example.com", true},
		{"a default port in a pattern", "https://app.example.com:443", "https://app.example.com", true},
		{"a default port in an origin", "https://app.example.com", "https://app.example.com:443", true},
		{"a default port of any host", "https://*:443", "https://any.where", true},
		{"no other port of any host", "https://*:443", "https://any.where:8443", false},
		{"a default port without a scheme", "app.example.com:443", "https://app.example.com", true},
		{"no default port of another scheme", "https://app.example.com:80", "https://app.example.com", false},
		{"the second of a list", "a.example, b.example ,", "https://b.example", true},
		{"a whole origin", "https://app.example.com", "https://app.example.com", true},
		{"a whole origin, not its other scheme", "https://app.example.com", "http://app.example.com", false},
		{"a whole origin with a wildcard", "https://*.example.com", "https://x.example.com", true},
		{"everything", "*", "https://any.where:1234", true},
		{"null is refused", "", "null", false},
		{"null is refused even by everything", "*", "null", false},
		{"no scheme", "*", "app.example.com", false},
		{"no host", "*", "https://", false},
		{"a path", "*", "https://app.example.com/", false},
		{"a user", "*", "https://chat.example.com@evil.test", false},
		{"a query", "*", "https://app.example.com?x", false},
		{"a control character", "*", "https://app\n.example.com", false},
		{"two in one", "*", "https://a.example https://b.example", false},
		{"empty", "*", "", false},
	} {
		t.Run(c.rule, func(t *testing.T) {
			p, err := Parse(c.patterns)
			if err != nil {
				t.Fatal(err)
			}
			r := httptest.NewRequest(http.MethodGet, "/chat", nil)
			r.Host = "chat.example.com"
			r.Header["Origin"] = []string{c.origin}
			if got := p.Allows(r); got != c.want {
				t.Errorf("patterns %q, origin %q: %v", c.patterns, c.origin, got)
			}
		})
	}
}

func TestARequestWithoutOriginIsNoBrowser(t *testing.T) {
	p, _ := Parse("")
	if r := httptest.NewRequest(http.MethodGet, "/chat", nil); !p.Allows(r) {
		t.Error("refused")
	}
}

func TestTwoOriginHeadersAreRefused(t *testing.T) {
	p, _ := Parse("*")
	r := httptest.NewRequest(http.MethodGet, "/chat", nil)
	r.Header["Origin"] = []string{"https://a.example", "https://b.example"}
	if p.Allows(r) {
		t.Error("allowed")
	}
}

func TestAWrongPatternStopsTheStart(t *testing.T) {
	for _, list := range []string{"[a", `a\`, "https://", "://a", "https://a.example/", "a.example/chat", "a b", "null", "ok.example,[", "user@host", "a.example:", "a.example:65536", "https://a.example:x", "é.example"} {
		_, err := Parse(list)
		if err == nil || !strings.HasPrefix(err.Error(), `"`) {
			t.Errorf("%q: %v", list, err)
		}
	}
}

func FuzzAllowsOrigin(f *testing.F) {
	p, err := Parse("*.example.com,https://app.test")
	if err != nil {
		f.Fatal(err)
	}
	f.Add("https://a.example.com")
	f.Add("null")
	f.Add("https://app.test\x00.example.com")
	f.Fuzz(func(t *testing.T, origin string) {
		if !p.AllowsOrigin(origin, "chat.test") {
			return
		}
		rest := strings.ToLower(origin)
		_, host, ok := strings.Cut(rest, "://")
		if !ok || (!strings.HasSuffix(host, ".example.com") && rest != "https://app.test" && host != "chat.test") {
			t.Fatalf("allowed %q", origin)
		}
	})
}

func TestOwnHostIsAllowedWhateverTheProxySaysOfItsPort(t *testing.T) {
	p := new(Policy)
	for _, c := range []struct {
		origin, host string
		want         bool
	}{
		{"https://chat.example.com", "chat.example.com:443", true},
		{"http://chat.example.com", "chat.example.com:80", true},
		{"https://chat.example.com:443", "chat.example.com", true},
		{"http://[::1]:8080", "[::1]:8080", true},
		{"https://chat.example.com", "chat.example.com:80", false},
		{"https://chat.example.com", "chat.example.com:8443", false},
		{"https://chat.example.com:8443", "chat.example.com", false},
	} {
		if got := p.AllowsOrigin(c.origin, c.host); got != c.want {
			t.Errorf("origin %s at %s: %v", c.origin, c.host, got)
		}
	}
}
