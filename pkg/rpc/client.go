package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/health" // client side of healthCheckConfig
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/stats"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// Periods of a connection. A client must ping less often than the server allows (minPing), or
// the server closes the connection with ENHANCE_YOUR_CALM.
const (
	minPing     = 10 * time.Second
	pingEvery   = 15 * time.Second
	pingTimeout = 5 * time.Second
)

// DefaultTimeout is how long a call takes at most, including its retries, if the caller's
// context has no deadline.
const DefaultTimeout = 3 * time.Second

// attemptTimeout is how long a server has for a call before another server is asked.
// Keepalive notices a server that hangs only after 20 s. Until then, each call sent to that
// server would lose all of its time.
const attemptTimeout = 1500 * time.Millisecond

// redialEvery is how often the client tries to reach a server that is gone, plus or minus
// 20 %.
const redialEvery = 500 * time.Millisecond

// serviceConfig balances calls over every address that reports SERVING. It retries calls that
// did not reach a server or were answered UNAVAILABLE, since every call of the room service
// can be repeated. Throttling stops retries while more than about one call in ten fails, so
// that an outage does not triple the number of calls.
const serviceConfig = `{
	"loadBalancingConfig": [{"` + balancerName + `": {}}],
	"healthCheckConfig": {"serviceName": ""},
	"retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
	"methodConfig": [{
		"name": [{}],
		"waitForReady": false,
		"retryPolicy": {
			"maxAttempts": 3,
			"initialBackoff": "0.05s",
			"maxBackoff": "0.5s",
			"backoffMultiplier": 3,
			"retryableStatusCodes": ["UNAVAILABLE"]
		}
	}]
}`

// ClientConfig describes a connection. The zero value is ready to use.
type ClientConfig struct {
	Timeout time.Duration // of a call whose context has no deadline; default: DefaultTimeout
	Metrics *metrics.Set  // default: not registered
	Stats   stats.Handler // sees every call, to trace it; default: none
	// Dialer replaces TCP, for an in-memory listener in tests and in `anteroom dev`.
	Dialer func(ctx context.Context, address string) (net.Conn, error)
	// Lookup replaces DNS in tests.
	Lookup func(ctx context.Context, host string) ([]string, error)
}

// Dial makes a connection to all servers that target names, and does not wait for any of
// them. target is a gRPC target (dns:///rooms:50051, which is looked up every 2 s) or a
// comma-separated list of host:port. Calls on the connection fail with *wire.Error (see
// FromStatus).
func Dial(target string, cfg ClientConfig) (*grpc.ClientConn, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(newPlaintext()),
		grpc.WithResolvers(dnsBuilder{cfg.Lookup}),
		grpc.WithNoProxy(), // internal calls never use a proxy from the environment
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDisableServiceConfig(), // a DNS TXT record must not configure us
		grpc.WithStaticStreamWindowSize(window),
		grpc.WithStaticConnWindowSize(window),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: pingEvery, Timeout: pingTimeout, PermitWithoutStream: true,
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			// A server that restarts must be found again before the next one is stopped. A
			// refused dial costs nothing compared to calls for which no server is left.
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: redialEvery},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(MaxMessageBytes), grpc.MaxCallSendMsgSize(MaxMessageBytes)),
		grpc.WithChainUnaryInterceptor(callInterceptor(cfg.Timeout, newMetrics("client", cfg.Metrics))),
	}
	if cfg.Stats != nil {
		options = append(options, grpc.WithStatsHandler(cfg.Stats))
	}
	if cfg.Dialer != nil {
		options = append(options, grpc.WithContextDialer(cfg.Dialer))
	}
	target, listed, err := parseTarget(target)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(target, append(options, listed...)...)
	if err != nil {
		return nil, fmt.Errorf("gRPC target %q: %w", target, err)
	}
	return conn, nil
}

// parseTarget returns a gRPC target unchanged, and makes a resolver for a list.
func parseTarget(target string) (string, []grpc.DialOption, error) {
	if scheme, rest, ok := strings.Cut(target, "://"); ok {
		_, endpoint, _ := strings.Cut(rest, "/")
		if endpoint == "" {
			return "", nil, fmt.Errorf("gRPC target %q names no address", target)
		}
		if resolver.Get(scheme) == nil {
			return "", nil, fmt.Errorf("gRPC target %q has an unknown scheme", target)
		}
		if scheme == "dns" {
			if _, _, err := hostPort(endpoint); err != nil {
				return "", nil, fmt.Errorf("gRPC target %q: %w", target, err)
			}
		}
		return target, nil, nil
	}
	var endpoints []resolver.Endpoint
	for item := range strings.SplitSeq(target, ",") {
		address := strings.TrimSpace(item)
		if _, _, err := hostPort(address); err != nil {
			return "", nil, fmt.Errorf("gRPC target %q: %w", target, err)
		}
		endpoints = append(endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: address}}})
	}
	list := manual.NewBuilderWithScheme("list")
	list.InitialState(resolver.State{Endpoints: endpoints})
	return "list:///rooms", []grpc.DialOption{grpc.WithResolvers(list)}, nil
}

func hostPort(address string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(address)
	if err != nil || host == "" || port == "" {
		return "", "", fmt.Errorf("%q is not host:port", address)
	}
	if n, err := net.LookupPort("tcp", port); err != nil || n == 0 {
		return "", "", fmt.Errorf("%q has no valid port", address)
	}
	return host, port, nil
}

// callInterceptor gives every call a deadline, asks a second server if the first one hangs or
// dies, and translates the error.
func callInterceptor(timeout time.Duration, m *callMetrics) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, resp any, conn *grpc.ClientConn,
		invoke grpc.UnaryInvoker, options ...grpc.CallOption,
	) error {
		if _, ok := ctx.Deadline(); !ok {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		start := time.Now()
		first, cancel := context.WithTimeout(ctx, attemptTimeout)
		defer cancel()
		first, attempt := withAttempt(first)
		err := invoke(first, method, req, resp, conn, options...)
		// The server knows the deadline too, and may be the first to notice that it has
		// passed.
		hung := err != nil && time.Since(start) > attemptTimeout*9/10
		// gRPC itself does not retry a call if the server died after its reply had begun.
		st := statusOf(err)
		cut := st.Code() == codes.Unavailable && len(st.Details()) == 0
		attempt.ended(hung, !cut && st.Code() != codes.Canceled && st.Code() != codes.DeadlineExceeded)
		if err = FromStatus(err); (hung || cut) && ctx.Err() == nil && errors.Is(err, &wire.Error{Code: wire.Unavailable}) {
			// Every call can be repeated. If the first server hung, this one goes to another
			// server.
			err = FromStatus(invoke(ctx, method, req, resp, conn, options...))
		}
		m.observe(method, codeLabel(err, nil), start)
		return err
	}
}
