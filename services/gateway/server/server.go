// Package server puts a gateway's public port together: /chat, /v1, health and the demo page.
// Before the port closes, it moves the members away.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
	"github.com/anteroom-chat/anteroom/services/gateway"
	"github.com/anteroom-chat/anteroom/services/gateway/httpapi"
	"github.com/anteroom-chat/anteroom/services/gateway/web"
)

const (
	// stopTimeout is how long requests under way may take once the members are gone.
	stopTimeout = 2 * time.Second
	// endTimeout is the part of the drain timeout that is kept for that, and for peers to answer
	// the last close frames. It is a tenth of the drain timeout if that is less.
	endTimeout = stopTimeout + time.Second
)

// Config describes a gateway process, apart from its address.
type Config struct {
	Gateway      gateway.Config // New sets Rooms, Wait and Refuse
	RoomsConn    *grpc.ClientConn
	Rate         httpapi.RateLimit // of requests to /v1
	ConnectRate  httpapi.RateLimit // of WebSockets
	DrainTimeout time.Duration     // how long a stop waits for members to move: 30 s at most
}

// Server is a gateway with its public port.
type Server struct {
	cfg     Config
	gateway *gateway.Gateway
	http    *http.Server
}

// New starts a gateway. Run serves it and ends it.
func New(cfg Config) (*Server, error) {
	if cfg.DrainTimeout < 0 || cfg.DrainTimeout > 30*time.Second {
		return nil, fmt.Errorf("drain timeout is %v, outside 0 to 30s", cfg.DrainTimeout)
	}
	cfg.Gateway.Rooms = roomv1.NewRoomServiceClient(cfg.RoomsConn)
	cfg.Gateway.Wait = cfg.ConnectRate.Wait()
	cfg.Gateway.Refuse = httpapi.Refuse
	g, err := gateway.New(cfg.Gateway)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, gateway: g}
	api := httpapi.New(httpapi.Config{
		Rooms: cfg.Gateway.Rooms, Identities: cfg.Gateway.Identities, Origins: cfg.Gateway.Origins,
		Ready: s.Ready, Rate: cfg.Rate, Metrics: cfg.Gateway.Registry, Trace: cfg.Gateway.Trace,
	})
	s.http = httpapi.NewServer(s.sendElsewhere(route(g, api, web.Handler())), slog.Default())
	return s, nil
}

// route is not an http.ServeMux, which redirects paths that are not clean: only the API knows
// how to answer those.
func route(chat, api, page http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch p := r.URL.Path; {
		case p == "/chat":
			chat.ServeHTTP(w, r)
		case p == "/v1", strings.HasPrefix(p, "/v1/"), p == "/healthz", p == "/readyz":
			api.ServeHTTP(w, r)
		default:
			page.ServeHTTP(w, r)
		}
	})
}

// sendElsewhere ends connections behind their answers while the gateway drains. Some load
// balancers choose a gateway for each connection and not for each request: without this, a
// client that keeps its connection would come back to this gateway until it ends, and then
// lose a request.
func (s *Server) sendElsewhere(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.gateway.Draining() {
			w.Header().Set("Connection", "close") // a WebSocket's upgrade replaces it
		}
		next.ServeHTTP(w, r)
	})
}

// Ready returns why this gateway wants no traffic. It returns nil if Redis and the room
// service answer and the gateway is not draining.
func (s *Server) Ready(ctx context.Context) error {
	if s.gateway.Draining() {
		return wire.Errorf(wire.Unavailable, "this gateway is draining")
	}
	if err := s.cfg.Gateway.Redis.Ping(ctx).Err(); err != nil {
		return wire.Errorf(wire.Unavailable, "Redis does not answer")
	}
	answer, err := grpc_health_v1.NewHealthClient(s.cfg.RoomsConn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil || answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		return wire.Errorf(wire.Unavailable, "the room service does not answer")
	}
	return nil
}

// Run serves until ctx ends. Then it asks the members to go to other gateways, waits for them,
// and closes, senders before receivers.
func (s *Server) Run(ctx context.Context, listener net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(listener) }()
	var failed error
	select {
	case err := <-served:
		failed = fmt.Errorf("public port: %w", err)
	case <-ctx.Done():
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DrainTimeout-min(endTimeout, s.cfg.DrainTimeout/10))
		s.gateway.Drain(drain) // not ready from here on, but still serving
		cancel()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if err := s.http.Shutdown(stop); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			failed = fmt.Errorf("public port: %w", err)
		}
		_ = s.http.Close()
	}
	s.gateway.Close()
	return failed
}

// Retire makes the gateway not ready at once, before the context of Run ends.
func (s *Server) Retire() { s.gateway.Retire() }
