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

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// Periods of a connection. A client pings less often than the server allows
// (minPing), or it is cut off with ENHANCE_YOUR_CALM.
const (
	minPing     = 10 * time.Second
	pingEvery   = 15 * time.Second
	pingTimeout = 5 * time.Second
)

// DefaultTimeout is how long a call takes at most, its retries included, when the
// caller's context has no deadline.
const DefaultTimeout = 3 * time.Second

// attemptTimeout is how long a server has for a call before another one is asked: a
// server that hangs is noticed by its keepalive after 20 s only, and would cost each
// call that is sent to it the whole of its time until then.
const attemptTimeout = 1500 * time.Millisecond

// redialEvery is how often a server that is gone is looked for, 20 % more or less.
const redialEvery = 500 * time.Millisecond

// serviceConfig balances calls over every address that says SERVING and retries
// what did not reach a server or was answered UNAVAILABLE: every call of the room
// service can be repeated. Throttling ends retries while more than about every
// tenth call fails, so an outage is not met by three times the calls.
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

// ClientConfig describes a connection; the zero value is a good one.
type ClientConfig struct {
	Timeout time.Duration // of a call whose context has no deadline; default: DefaultTimeout
	Metrics *metrics.Set  // default: not registered
	// Dialer replaces TCP: an in-memory listener in tests and in `anteroom dev`.
	Dialer func(ctx context.Context, address string) (net.Conn, error)
	// Lookup replaces DNS in tests.
	Lookup func(ctx context.Context, host string) ([]string, error)
}

// Dial makes a connection to every server that target names; it does not wait for
// any. target is a gRPC target (dns:///rooms:50051, which is looked up every 2 s) or a
// comma-separated list of host:port. Calls on the connection fail with *wire.Error (see
// FromStatus).
func Dial(target string, cfg ClientConfig) (*grpc.ClientConn, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(newPlaintext()),
		grpc.WithResolvers(dnsBuilder{cfg.Lookup}),
		grpc.WithNoProxy(), // internal calls never leave by a proxy of the environment
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDisableServiceConfig(), // a TXT record does not configure us
		grpc.WithStaticStreamWindowSize(window),
		grpc.WithStaticConnWindowSize(window),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: pingEvery, Timeout: pingTimeout, PermitWithoutStream: true,
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			// A restarted server is found again before the next one is stopped: a dial
			// that is refused costs nothing beside calls that no server is left for.
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: redialEvery},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(MaxMessageBytes), grpc.MaxCallSendMsgSize(MaxMessageBytes)),
		grpc.WithChainUnaryInterceptor(callInterceptor(cfg.Timeout, newMetrics("client", cfg.Metrics))),
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

// parseTarget leaves gRPC targets as they are and makes a resolver for a list.
func parseTarget(target string) (string, []grpc.DialOption, error) {
	if scheme, rest, ok := strings.Cut(target, "://"); ok {
		_, endpoint, _ := strings.Cut(rest, "/")
		if endpoint == "" {
			return "", nil, fmt.Errorf("gRPC target %q names no address", target)
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
	if _, err := net.LookupPort("tcp", port); err != nil {
		return "", "", fmt.Errorf("%q has no valid port", address)
	}
	return host, port, nil
}

// callInterceptor gives every call a deadline, asks a second server where the first one
// hangs or dies, and translates the error.
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
		// The server knows the deadline too, and may be the first to find it over.
		hung := err != nil && time.Since(start) > attemptTimeout*9/10
		// gRPC itself does not retry a call whose answer had begun when the server died.
		st := statusOf(err)
		cut := st.Code() == codes.Unavailable && len(st.Details()) == 0
		attempt.ended(hung, !cut && st.Code() != codes.Canceled && st.Code() != codes.DeadlineExceeded)
		if err = FromStatus(err); (hung || cut) && ctx.Err() == nil && errors.Is(err, &wire.Error{Code: wire.Unavailable}) {
			// Every call can be repeated. Where the first server hung, this goes to another.
			err = FromStatus(invoke(ctx, method, req, resp, conn, options...))
		}
		m.observe(method, codeLabel(err, nil), start)
		return err
	}
}
