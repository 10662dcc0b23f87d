package web_test

import (
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/anteroom-chat/anteroom/services/gateway/web"
)

func request(method, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	web.Handler().ServeHTTP(w, r)
	return w
}

func TestFilesHaveTheirContentType(t *testing.T) {
	for file, want := range map[string]string{
		"/":                     "text/html; charset=utf-8",
		"/anteroom.js":          "text/javascript; charset=utf-8",
		"/client/connection.js": "text/javascript; charset=utf-8",
		"/app.js":               "text/javascript; charset=utf-8",
		"/style.css":            "text/css; charset=utf-8",
		"/favicon.svg":          "image/svg+xml",
	} {
		w := request(http.MethodGet, file)
		if w.Code != http.StatusOK || w.Body.Len() == 0 {
			t.Errorf("GET %s: status %d, %d bytes", file, w.Code, w.Body.Len())
		}
		if got := w.Header().Get("Content-Type"); got != want {
			t.Errorf("GET %s: content type %q, want %q", file, got, want)
		}
	}
}

func TestOtherPathsAreNotFound(t *testing.T) {
	for _, path := range []string{"/index.html", "/web.go", "/client", "/client/", "/nothing", "//", "/../web.go"} {
		if w := request(http.MethodGet, path); w.Code != http.StatusNotFound {
			t.Errorf("GET %s: status %d, want 404", path, w.Code)
		}
	}
}

func TestOnlyReadingIsAllowed(t *testing.T) {
	w := request(http.MethodPost, "/")
	if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("POST /: status %d, Allow %q", w.Code, w.Header().Get("Allow"))
	}
	if w := request(http.MethodHead, "/"); w.Code != http.StatusOK || w.Body.Len() != 0 {
		t.Errorf("HEAD /: status %d, %d bytes", w.Code, w.Body.Len())
	}
}

func TestEveryAnswerIsGuarded(t *testing.T) {
	for _, path := range []string{"/", "/app.js", "/nothing"} {
		h := request(http.MethodGet, path).Header()
		csp := h.Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'self'", "connect-src 'self' ws: wss:", "frame-ancestors 'none'"} {
			if !strings.Contains(csp, part) {
				t.Errorf("GET %s: policy %q lacks %q", path, csp, part)
			}
		}
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("GET %s: headers %v", path, h)
		}
	}
}

func TestUnchangedFilesAreNotSentAgain(t *testing.T) {
	first := request(http.MethodGet, "/style.css")
	if got := first.Header().Get("Cache-Control"); got != "no-cache" {
		t.Errorf("Cache-Control %q, want no-cache", got)
	}
	again := request(http.MethodGet, "/style.css", "If-None-Match", first.Header().Get("ETag"))
	if again.Code != http.StatusNotModified || again.Body.Len() != 0 {
		t.Errorf("revalidation: status %d, %d bytes", again.Code, again.Body.Len())
	}
}

// The content security policy would block inline code silently, and only in browsers.
func TestPageHasNothingInline(t *testing.T) {
	page := request(http.MethodGet, "/").Body.String()
	inline := regexp.MustCompile(`(?i)<style|\sstyle=|\son[a-z]+=|<script(?:[^>]*)>\s*[^<\s]|(?:src|href)="(?:https?:)?//`)
	if found := inline.FindString(page); found != "" {
		t.Errorf("index.html has %q", found)
	}
}

// A module that imports a file which is not embedded would leave a blank page.
func TestEveryImportIsServed(t *testing.T) {
	if modules := modulesOf(t, "/app.js"); len(modules) < 10 {
		t.Errorf("only %d modules were found: %v", len(modules), modules)
	}
}

// If one module lacked the header, browsers would not run the client on other origins.
func TestOtherOriginsMayImportTheClientAlone(t *testing.T) {
	client := modulesOf(t, "/anteroom.js")
	for file := range modulesOf(t, "/app.js") {
		want := ""
		if client[file] {
			want = "*"
		}
		if got := request(http.MethodGet, file, "Origin", "https://app.example.com").Header().Get("Access-Control-Allow-Origin"); got != want {
			t.Errorf("GET %s: Access-Control-Allow-Origin %q, want %q", file, got, want)
		}
	}
	if len(client) < 5 {
		t.Errorf("only %d modules were found: %v", len(client), client)
	}
}

// modulesOf returns the paths of a module and of all that it imports.
func modulesOf(t *testing.T, file string) map[string]bool {
	t.Helper()
	imports := regexp.MustCompile(`(?m)^(?:import|export) .* from '\.([^']+)';`)
	seen := map[string]bool{}
	var find func(file string)
	find = func(file string) {
		if seen[file] {
			return
		}
		seen[file] = true
		w := request(http.MethodGet, file)
		if w.Code != http.StatusOK {
			t.Errorf("GET %s: status %d", file, w.Code)
		}
		for _, match := range imports.FindAllStringSubmatch(w.Body.String(), -1) {
			find(path.Join(path.Dir(file), match[1]))
		}
	}
	find(file)
	return seen
}
