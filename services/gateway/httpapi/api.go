// Package httpapi serves /v1, the JSON interface for browsers: identities, rooms and permits;
// and /healthz and /readyz.
//
// A request passes, in this order: no-store, metrics and trace, panic, CORS, rate limit,
// deadline, path and query text, route, body, handler. Every error on the way is an RFC 9457
// problem with a code of the error table. huma's own validation is off: the rules are the room
// service's, and a second copy here would drift from them. The limits in the OpenAPI schema are
// documentation only, with the numbers of package wire.
package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/anteroom-chat/anteroom/pkg/rpc"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
	"github.com/anteroom-chat/anteroom/services/gateway/identity"
	"github.com/anteroom-chat/anteroom/services/gateway/origin"
)

// Limits of requests.
const (
	MaxBodyBytes   = 16 << 10
	RequestTimeout = 4 * time.Second // including the response; below the 5 s that many clients wait
	readyTimeout   = 2 * time.Second
)

// Config is what the interface needs.
type Config struct {
	Rooms      roomv1.RoomServiceClient        // required; its errors are *wire.Error (rpc.Dial)
	Identities *identity.Signer                // required
	Origins    *origin.Policy                  // default: the page's own host only
	Ready      func(ctx context.Context) error // returns why no traffic is wanted, nil if it is; default: always ready
	Rate       RateLimit                       // default: none
	Logger     *slog.Logger                    // default: slog.Default()
	Metrics    *metrics.Set                    // default: not registered

	// Trace begins a span of a trace, as tracing.Tracer.Begin does; default: nothing is traced.
	Trace func(ctx context.Context, name string) (_ context.Context, end func(result string, failed bool))
}

type api struct {
	Config
	mux  *http.ServeMux
	spec []byte // the OpenAPI document
}

// New returns the handler of /v1/, /healthz and /readyz.
func New(cfg Config) http.Handler {
	if cfg.Origins == nil {
		cfg.Origins = new(origin.Policy)
	}
	if cfg.Ready == nil {
		cfg.Ready = func(context.Context) error { return nil }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	a := &api{Config: cfg, mux: http.NewServeMux()}
	for route, handle := range a.plainRoutes() {
		a.mux.HandleFunc(route, handle)
	}
	docs := humago.New(a.mux, humaConfig())
	a.addIdentities(docs)
	a.addRooms(docs)
	a.addPermits(docs)
	a.spec = finishSpec(docs.OpenAPI())
	routes := slices.AppendSeq([]string{noRoute}, maps.Keys(a.plainRoutes()))
	for path, item := range docs.OpenAPI().Paths {
		for method, operation := range map[string]*huma.Operation{"GET": item.Get, "POST": item.Post, "DELETE": item.Delete} {
			if operation != nil {
				routes = append(routes, method+" "+path)
			}
		}
	}
	return a.chain(newMetrics(a.Metrics, routes))
}

// plainRoutes returns the routes that are not operations in the OpenAPI document.
func (a *api) plainRoutes() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"GET /healthz": a.healthz, "GET /readyz": a.readyz, "GET /v1/openapi.json": a.openapi,
	}
}

// chain wraps the routes in what every request passes. The last wrapper is the outermost.
func (a *api) chain(m *requestMetrics) http.Handler {
	h := checkText(a.routes(checkBody(a.mux)))
	h = withDeadline(h)
	h = onlyV1(a.Rate.limit, h)
	h = onlyV1(a.cors, h)
	h = a.recover(h)
	h = a.observe(m, h)
	return noStore(h)
}

// humaConfig returns a configuration of huma without its routes for documents, its $schema
// links and its other formats.
func humaConfig() huma.Config {
	return huma.Config{
		OpenAPI: newSpec(),
		Formats: map[string]huma.Format{
			"application/json": {Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: decodeBody},
			"json":             {Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: decodeBody},
		},
		DefaultFormat: "application/json",
	}
}

func (a *api) openapi(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/vnd.oai.openapi+json;version=3.1")
	w.Write(a.spec)
}

// healthz reports that the process runs, regardless of what it depends on.
func (a *api) healthz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Write([]byte(`{"status":"ok"}` + "\n"))
}

// readyz tells load balancers whether to send traffic here.
func (a *api) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	if err := a.Ready(ctx); err != nil {
		a.Logger.Debug("not ready", "err", err)
		if refusal, ok := errors.AsType[*wire.Error](err); ok {
			err = errors.New(refusal.Detail)
		}
		writeProblem(w, problemOf(wire.Errorf(wire.Unavailable, "not ready: %v", err)))
		return
	}
	a.healthz(w, r)
}

// refuse returns the problem for err, and logs err if it is a defect of ours.
func (a *api) refuse(ctx context.Context, operation string, err error) error {
	p := problemOf(err)
	if p.Code == wire.Internal {
		a.Logger.ErrorContext(ctx, "request failed", "operation", operation, "err", rpc.Cause(err))
	}
	return p
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("httpapi: " + err.Error())
	}
	return b
}
