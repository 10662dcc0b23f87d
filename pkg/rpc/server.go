package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// Limits of a server.
const (
	DefaultDeadline = 5 * time.Second  // of a call that has none
	MaxDeadline     = 30 * time.Second // limit for a call that asks for more
	// MaxMessageBytes limits requests and responses. A roster of 1,000 members with the
	// longest ids and nicknames is below 300 KiB, and 10,000 leases are below 3 MiB.
	MaxMessageBytes = 4 << 20
	// window is how many bytes either side may send ahead, in a call and on a connection: the
	// largest message, and more, because gRPC gives back a window only a quarter at a time.
	// If gRPC chose the windows itself, both sides would measure the connection by a ping at
	// every call.
	window = 2 * MaxMessageBytes
	// streamWorkers is the number of goroutines that serve calls one after another. Calls
	// beyond that number get goroutines of their own, whose stacks must grow first. That is
	// 8 % of what a join costs the server.
	streamWorkers = 64
	// DefaultStopTimeout is how long a stopping server waits for calls in progress.
	DefaultStopTimeout = 10 * time.Second
	// streamsPatience is how long a stopping server lets streams go on. Those of health
	// checks and reflection do not end by themselves. The delay lets a client that watches
	// its health learn that it stops.
	streamsPatience = time.Second
)

// ServerConfig describes a server. The zero value is ready to use.
type ServerConfig struct {
	Logger      *slog.Logger  // default: slog.Default()
	Metrics     *metrics.Set  // default: not registered
	StopTimeout time.Duration // default: DefaultStopTimeout
	Stats       stats.Handler // sees every call, to trace it; default: none
}

// Server is a grpc.Server with health checks, deadlines, typed errors and metrics. It answers
// NOT_SERVING to health checks until SetServing(true).
type Server struct {
	*grpc.Server
	health      *health.Server
	metrics     *callMetrics
	services    []string // names of the services whose health is reported; "" is the server's own
	stopTimeout time.Duration
	endStreams  chan struct{} // closed when streams are to end
}

// NewServer makes a server. Register the services, then call Run.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.StopTimeout == 0 {
		cfg.StopTimeout = DefaultStopTimeout
	}
	m := newMetrics("server", cfg.Metrics)
	endStreams := make(chan struct{})
	options := []grpc.ServerOption{
		grpc.Creds(newPlaintext()),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(MaxMessageBytes),
		grpc.MaxSendMsgSize(MaxMessageBytes),
		grpc.StaticStreamWindowSize(window),
		grpc.StaticConnWindowSize(window),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime: minPing, PermitWithoutStream: true,
		}),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingEvery, Timeout: pingTimeout}),
		grpc.ChainUnaryInterceptor(deadlineInterceptor, errorInterceptor(cfg.Logger, m)),
		grpc.ChainStreamInterceptor(streamInterceptor(cfg.Logger, endStreams)),
	}
	if cfg.Stats != nil {
		options = append(options, grpc.StatsHandler(cfg.Stats))
	}
	s := &Server{
		Server: grpc.NewServer(options...), health: health.NewServer(), metrics: m, services: []string{""},
		stopTimeout: cfg.StopTimeout, endStreams: endStreams,
	}
	s.SetServing(false)
	grpc_health_v1.RegisterHealthServer(s.Server, s.health)
	return s
}

// RegisterService adds a service to the server and to its health checks.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.Server.RegisterService(withReadable(desc), impl)
	s.metrics.begin(desc)
	s.services = append(s.services, desc.ServiceName)
	s.SetServing(false)
}

// SetServing tells health checks, and through them the clients' balancers, whether this
// server and its services want calls.
func (s *Server) SetServing(serving bool) {
	state := grpc_health_v1.HealthCheckResponse_NOT_SERVING
	if serving {
		state = grpc_health_v1.HealthCheckResponse_SERVING
	}
	for _, name := range s.services {
		s.health.SetServingStatus(name, state)
	}
}

// Run serves until ctx ends, then stops: it reports NOT_SERVING, takes no new calls, and
// waits for the calls in progress. After the stop timeout it cuts them off. Run may be called
// only once.
func (s *Server) Run(ctx context.Context, listener net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve gRPC on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	s.stop()
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("stop gRPC on %s: %w", listener.Addr(), err)
	}
	return nil
}

func (s *Server) stop() {
	s.health.Shutdown()
	cut := time.AfterFunc(s.stopTimeout, s.Stop)
	defer cut.Stop()
	end := time.AfterFunc(streamsPatience, func() { close(s.endStreams) })
	defer end.Stop()
	s.GracefulStop()
}

// deadlineInterceptor gives every call a deadline.
func deadlineInterceptor(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	limit := MaxDeadline
	if _, ok := ctx.Deadline(); !ok {
		limit = DefaultDeadline
	}
	ctx, cancel := context.WithTimeout(ctx, limit) // an earlier deadline stays in force
	defer cancel()
	return handle(ctx, req)
}

// errorInterceptor counts calls and translates their errors and panics.
func errorInterceptor(logger *slog.Logger, m *callMetrics) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		start := time.Now()
		resp, err := handleSafely(ctx, req, handle)
		if err == nil {
			m.observe(info.FullMethod, codeLabel(nil, nil), start)
			return resp, nil
		}
		if ended := ctx.Err(); ended != nil && wire.CodeOf(err) == wire.Unavailable {
			err = ended // the store was unavailable only because the call had ended
		}
		st, defect := ToStatus(err)
		if defect {
			logger.ErrorContext(ctx, "call failed", "method", info.FullMethod, "err", err)
		}
		m.observe(info.FullMethod, codeLabel(err, st), start)
		return nil, st.Err()
	}
}

func handleSafely(ctx context.Context, req any, handle grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return handle(ctx, req)
}

// streamInterceptor turns a panic in a stream into an error of that stream, and ends streams
// once end is closed. Their handlers then see that the client is gone.
func streamInterceptor(logger *slog.Logger, end <-chan struct{}) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		handled := make(chan error, 1)
		go func() {
			defer func() {
				if p := recover(); p != nil {
					logger.Error("stream failed", "method", info.FullMethod, "panic", p, "stack", string(debug.Stack()))
					handled <- status.Error(codes.Internal, wire.AsError(nil).Detail)
				}
			}()
			handled <- handle(srv, stream)
		}()
		select {
		case err := <-handled:
			return err
		case <-end:
			return status.Error(codes.Unavailable, "the server stops")
		}
	}
}
