package httpapi

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/VictoriaMetrics/metrics"

	"github.com/anteroom-chat/anteroom/pkg/vec"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// isV1 reports whether r is for the users' interface, and not a probe.
func isV1(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/v1/") }

// onlyV1 applies a middleware to /v1 and leaves the probes alone.
func onlyV1(wrap func(http.Handler) http.Handler, next http.Handler) http.Handler {
	wrapped := wrap(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isV1(r) {
			wrapped.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (a *api) recover(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			switch p := recover(); p {
			case nil:
			case http.ErrAbortHandler:
				panic(p) // net/http's own way to end a connection
			default:
				a.Logger.Error("request panicked", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
				writeProblem(w, problemOf(nil))
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// noStore keeps occupancies, permits and identities out of caches.
func noStore(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

func withDeadline(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), RequestTimeout)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// checkText refuses paths and queries that are malformed or not UTF-8: gRPC, which carries
// them on, has only UTF-8 strings.
func checkText(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query, err := url.QueryUnescape(r.URL.RawQuery)
		if _, malformed := url.ParseQuery(r.URL.RawQuery); err != nil || malformed != nil {
			writeProblem(w, badRequest("the query is malformed"))
			return
		}
		if !utf8.ValidString(r.URL.Path) || !utf8.ValidString(query) {
			writeProblem(w, badRequest("the address is not UTF-8"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// routes answers a request that has no route with a problem. The mux would answer it with
// text.
func (a *api) routes(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := routeOf(a.mux, r)
		if pattern != "" {
			next.ServeHTTP(w, r)
			return
		}
		answer := &headOnly{header: http.Header{}}
		h.ServeHTTP(answer, r)
		if answer.status == http.StatusMethodNotAllowed {
			allow := answer.header.Get("Allow")
			w.Header().Set("Allow", allow)
			writeProblem(w, problemOfStatus(answer.status, "this address allows "+allow))
			return
		}
		writeProblem(w, problemOfStatus(http.StatusNotFound, "there is nothing at this address"))
	})
}

// routeOf finds the route of a request. A path that contains // or .., which the mux would
// redirect, has none.
func routeOf(mux *http.ServeMux, r *http.Request) (h http.Handler, pattern string) {
	if asked := r.URL.EscapedPath(); asked != path.Clean(asked) {
		return http.NotFoundHandler(), ""
	}
	return mux.Handler(r)
}

// headOnly records the status and the header of a response.
type headOnly struct {
	header http.Header
	status int
}

func (h *headOnly) Header() http.Header         { return h.header }
func (h *headOnly) WriteHeader(status int)      { h.status = status }
func (h *headOnly) Write(p []byte) (int, error) { return len(p), nil }

// requestMetrics counts requests by route and never by path, since users can choose any path.
type requestMetrics struct {
	requests *vec.Counters
	duration *vec.Histograms
}

// noRoute is the label of requests that have no route.
const noRoute = "none"

// newMetrics starts the count of each route's responses with 500 at 0. An alert asks by how
// much that count grew, and would miss the error that created it.
func newMetrics(registry *metrics.Set, routes []string) *requestMetrics {
	if registry == nil {
		registry = metrics.NewSet()
	}
	bounds := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}
	m := &requestMetrics{
		requests: vec.NewCounters(registry, "anteroom_http_requests_total", "route", "status"),
		duration: vec.NewHistograms(registry, bounds, "anteroom_http_duration_seconds", "route"),
	}
	for _, route := range routes {
		m.requests.With(route, strconv.Itoa(http.StatusInternalServerError))
	}
	return m
}

// observe counts each request and, apart from the probes, makes a span of it. It does not
// continue a trace of the client, because nobody outside decides what is sent to the collector.
func (a *api) observe(m *requestMetrics, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, route := routeOf(a.mux, r)
		route = cmp.Or(route, noRoute)
		end := func(string, bool) {}
		if a.Trace != nil && isV1(r) {
			var ctx context.Context
			ctx, end = a.Trace(r.Context(), route)
			r = r.WithContext(ctx)
		}
		start, answer := time.Now(), &statusWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(answer, r)
		status := strconv.Itoa(answer.status)
		end(status, answer.status >= http.StatusInternalServerError)
		m.requests.With(route, status).Inc()
		m.duration.With(route).UpdateDuration(start)
	})
}

// statusWriter records the status.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// bearer returns the identity in an Authorization header.
func bearer(header string) (string, error) {
	scheme, token, _ := strings.Cut(header, " ")
	if header == "" {
		return "", wire.Errorf(wire.Unauthenticated, "an identity is needed: Authorization: Bearer <identity>")
	}
	if !strings.EqualFold(scheme, "Bearer") {
		return "", wire.Errorf(wire.Unauthenticated, "Authorization must be of the scheme Bearer")
	}
	return strings.TrimSpace(token), nil
}
