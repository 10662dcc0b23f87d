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
	"google.golang.org/grpc/status"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// Limits of a server.
const (
	DefaultDeadline = 5 * time.Second  // of a call that carries none
	MaxDeadline     = 30 * time.Second // of a call that asks for more
	// MaxMessageBytes bounds requests and answers: a snapshot of 1,000 members with
	// ids and nicknames at their limits is below 300 KiB, 10,000 leases below 3 MiB.
	MaxMessageBytes = 4 << 20
	// window is what either side may send ahead, in a call and on a connection: the largest
	// message, and then some, since gRPC gives the room back by quarters. With windows that
	// it finds out by itself, both sides measure the line by a ping at every call.
	window = 2 * MaxMessageBytes
	// streamWorkers goroutines carry out calls one after another; more calls at a time
	// get goroutines of their own, whose stacks have to grow first, which is 8 % of a
	// join's cost here.
	streamWorkers = 64
	// DefaultStopTimeout is how long a stopping server waits for calls under way.
	DefaultStopTimeout = 10 * time.Second
	// streamsPatience is how long a stopping server lets streams go on, those of health and
	// of reflection, which do not end by themselves: who watches its health hears that it stops.
	streamsPatience = time.Second
)

// ServerConfig describes a server; the zero value serves.
type ServerConfig struct {
	Logger      *slog.Logger  // default: slog.Default()
	Metrics     *metrics.Set  // default: not registered
	StopTimeout time.Duration // default: DefaultStopTimeout
}

// Server is a grpc.Server with health, deadlines, typed errors and
// metrics. It answers NOT_SERVING to health checks until SetServing(true).
type Server struct {
	*grpc.Server
	health      *health.Server
	metrics     *callMetrics
	services    []string // whose health is told; "" is the server's own
	stopTimeout time.Duration
	endStreams  chan struct{} // closed when streams are to end
}

// NewServer makes a server. Register services, then Run.
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

// SetServing tells health checks, and by them the clients' balancers, whether this
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

// Run serves until ctx ends, then stops: NOT_SERVING to health checks, no new
// calls, those under way end, and after the stop timeout what is left is cut. It is run once.
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
	ctx, cancel := context.WithTimeout(ctx, limit) // keeps an earlier deadline
	defer cancel()
	return handle(ctx, req)
}

// errorInterceptor counts calls and translates their errors, panics included.
func errorInterceptor(logger *slog.Logger, m *callMetrics) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		start := time.Now()
		resp, err := handleSafely(ctx, req, handle)
		if err == nil {
			m.observe(info.FullMethod, codeLabel(nil, nil), start)
			return resp, nil
		}
		if ended := ctx.Err(); ended != nil && wire.CodeOf(err) == wire.Unavailable {
			err = ended // what was out of reach was so because nobody waits any more
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

// streamInterceptor keeps a panic in a stream, as of health, to that stream, and ends streams
// once end is closed: then their handlers hear that nobody is there.
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
