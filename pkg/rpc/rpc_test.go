package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const method = "/test.Echo/Do"

type text = wrapperspb.StringValue

// handler is a service of one method, so that these tests need no generated code.
type handler func(ctx context.Context, in string) (string, error)

func (h handler) register(s grpc.ServiceRegistrar) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Echo", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
			MethodName: "Do",
			Handler: func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
				in := new(text)
				if err := decode(in); err != nil {
					return nil, err
				}
				return intercept(ctx, in, &grpc.UnaryServerInfo{FullMethod: method}, func(ctx context.Context, req any) (any, error) {
					out, err := h(ctx, req.(*text).GetValue())
					return wrapperspb.String(out), err
				})
			},
		}},
	}, nil)
}

// lines is a log that tests can read while the server writes.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), s)
}

// serve starts h in memory and returns a connection to it and what the server logs.
func serve(t *testing.T, h handler, server ServerConfig, client ClientConfig) (*grpc.ClientConn, *lines) {
	t.Helper()
	log := new(lines)
	server.Logger = slog.New(slog.NewTextHandler(log, nil))
	s := NewServer(server)
	h.register(s)
	s.SetServing(true)
	listener := bufconn.Listen(1 << 20)
	run(t, s, listener)
	client.Dialer = func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }
	return dial(t, "passthrough:///bufconn", client), log
}

func run(t *testing.T, s *Server, listener net.Listener) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, listener) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func dial(t *testing.T, target string, cfg ClientConfig) *grpc.ClientConn {
	t.Helper()
	conn, err := Dial(target, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func call(ctx context.Context, conn *grpc.ClientConn, in string) (string, error) {
	out := new(text)
	err := conn.Invoke(ctx, method, wrapperspb.String(in), out)
	return out.GetValue(), err
}

var allCodes = []wire.Code{
	wire.BadRequest, wire.Unauthenticated, wire.Forbidden, wire.RoomNotFound, wire.RoomExists,
	wire.RoomFull, wire.PermitExpired, wire.RateLimited, wire.Unavailable, wire.Internal,
}

func TestARequestThatCannotBeReadIsABadRequest(t *testing.T) {
	conn, _ := serve(t, func(context.Context, string) (string, error) {
		return "", errors.New("the handler was called")
	}, ServerConfig{}, ClientConfig{})
	for name, request := range map[string][]byte{"not UTF-8": {0xff}, "cut off": []byte("\xe2\x82")} {
		// On the wire, bytes are encoded like text.
		err := conn.Invoke(t.Context(), method, wrapperspb.Bytes(request), new(text))
		if !errors.Is(err, &wire.Error{Code: wire.BadRequest}) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEveryCodeCrossesTheWireUnchanged(t *testing.T) {
	conn, _ := serve(t, func(_ context.Context, code string) (string, error) {
		return "", fmt.Errorf("store: %w", wire.Errorf(wire.Code(code), "detail of %s: 100%%", code))
	}, ServerConfig{}, ClientConfig{})
	for _, code := range allCodes {
		t.Run(string(code), func(t *testing.T) {
			_, err := call(t.Context(), conn, string(code))
			refusal, ok := errors.AsType[*wire.Error](err)
			if !ok || refusal.Code != code || refusal.Detail != "detail of "+string(code)+": 100%" {
				t.Fatalf("got %#v", err)
			}
			st := statusOf(Cause(err))
			if st.Code() != code.Translate().GRPC {
				t.Fatalf("status %v", st)
			}
			var retry bool
			for _, d := range st.Details() {
				_, is := d.(*errdetails.RetryInfo)
				retry = retry || is
			}
			if retry != code.Translate().Retry {
				t.Errorf("RetryInfo %v, want %v", retry, code.Translate().Retry)
			}
		})
	}
}

func TestWhatTheServerDidNotRefuseIsNeverFullOrNotFound(t *testing.T) {
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		want := wire.Internal
		switch code {
		case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
			want = wire.Unavailable
		}
		if got := wire.CodeOf(FromStatus(status.Error(code, "from a proxy"))); got != want {
			t.Errorf("%s without ErrorInfo is %s, want %s", code, got, want)
		}
	}
	foreign, _ := status.New(codes.ResourceExhausted, "quota").WithDetails(
		&errdetails.ErrorInfo{Reason: "ROOM_FULL", Domain: "somebody.else"})
	if got := wire.CodeOf(FromStatus(foreign.Err())); got != wire.Internal {
		t.Errorf("another domain's ROOM_FULL is %s", got)
	}
	made, _ := status.New(codes.NotFound, "new").WithDetails(&errdetails.ErrorInfo{Reason: "NEW_CODE", Domain: Domain})
	if got := wire.CodeOf(FromStatus(made.Err())); got != wire.Internal {
		t.Errorf("an unknown reason is %s", got)
	}
}

func TestDefectsAreLoggedOnceAndTellNothing(t *testing.T) {
	registry := metrics.NewSet()
	conn, log := serve(t, func(_ context.Context, in string) (string, error) {
		if in == "panic" {
			panic("secret 1")
		}
		return "", errors.New("secret 2")
	}, ServerConfig{Metrics: registry}, ClientConfig{})
	for _, in := range []string{"panic", "error"} {
		_, err := call(t.Context(), conn, in)
		if wire.CodeOf(err) != wire.Internal || strings.Contains(Cause(err).Error(), "secret") {
			t.Errorf("%s: %v", in, Cause(err))
		}
	}
	for _, secret := range []string{"secret 1", "secret 2"} {
		if n := log.count(secret); n != 1 {
			t.Errorf("%q was logged %d times", secret, n)
		}
	}
	var text strings.Builder
	registry.WritePrometheus(&text)
	want := `anteroom_rpc_server_calls_total{code="INTERNAL",method="/test.Echo/Do"} 2
anteroom_rpc_server_calls_total{code="OK",method="/test.Echo/Do"} 0
anteroom_rpc_server_duration_seconds_bucket{method="/test.Echo/Do",le="0.0005"} `
	if !strings.HasPrefix(text.String(), want) {
		t.Errorf("%s\ndoes not begin with\n%s", text.String(), want)
	}
}

func TestTheStoreIsNotBlamedWhereTheCallerHasGivenUp(t *testing.T) {
	answer := errorInterceptor(slog.New(slog.DiscardHandler), newMetrics("server", nil))
	unreachable := func(context.Context, any) (any, error) { return nil, wire.Errorf(wire.Unavailable, "out of reach") }
	info := &grpc.UnaryServerInfo{FullMethod: method}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	for ctx, want := range map[context.Context]codes.Code{t.Context(): codes.Unavailable, over: codes.Canceled, late: codes.DeadlineExceeded} {
		if _, err := answer(ctx, nil, info, unreachable); status.Code(err) != want {
			t.Errorf("%v instead of %v", err, want)
		}
	}
}

func TestAServerGivesEveryCallADeadline(t *testing.T) {
	left := make(chan time.Duration, 1)
	h := func(ctx context.Context, _ any) (any, error) {
		deadline, _ := ctx.Deadline()
		left <- time.Until(deadline)
		return nil, nil
	}
	for _, c := range []struct{ asked, want time.Duration }{
		{0, DefaultDeadline}, {time.Second, time.Second}, {time.Hour, MaxDeadline},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		if c.asked > 0 {
			ctx, cancel = context.WithTimeout(t.Context(), c.asked)
		}
		if _, err := deadlineInterceptor(ctx, nil, nil, h); err != nil {
			t.Error(err)
		}
		cancel()
		if got := <-left; got > c.want || got < c.want-time.Second {
			t.Errorf("asked %v: has %v left, want %v", c.asked, got, c.want)
		}
	}
}

func TestACallThatTakesTooLongIsUnavailable(t *testing.T) {
	conn, _ := serve(t, func(ctx context.Context, _ string) (string, error) {
		<-ctx.Done()
		return "", ctx.Err()
	}, ServerConfig{}, ClientConfig{Timeout: 50 * time.Millisecond})
	start := time.Now()
	_, err := call(context.Background(), conn, "")
	if wire.CodeOf(err) != wire.Unavailable || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("the default timeout took %v", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err = call(ctx, conn, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller's own cancel is lost: %v", err)
	}
}

func TestUnavailableIsRetriedAndFullIsNot(t *testing.T) {
	var calls atomic.Int32
	conn, _ := serve(t, func(_ context.Context, in string) (string, error) {
		if calls.Add(1) < 3 {
			return "", wire.Errorf(wire.Code(in), "not now")
		}
		return "done", nil
	}, ServerConfig{}, ClientConfig{})
	if out, err := call(t.Context(), conn, string(wire.Unavailable)); err != nil || out != "done" {
		t.Errorf("got %q, %v", out, err)
	}
	calls.Store(0)
	if _, err := call(t.Context(), conn, string(wire.RoomFull)); wire.CodeOf(err) != wire.RoomFull || calls.Load() != 1 {
		t.Errorf("got %v after %d calls", err, calls.Load())
	}
}

func echo(_ context.Context, in string) (string, error) { return in, nil }

func listenTCP(t *testing.T, address string) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

func startTCP(t *testing.T, address string, h handler) (string, func()) {
	t.Helper()
	s := NewServer(ServerConfig{StopTimeout: 2 * time.Second})
	h.register(s)
	s.SetServing(true)
	listener := listenTCP(t, address)
	return listener.Addr().String(), run(t, s, listener)
}

func TestALostServerIsUnavailableAndFoundAgain(t *testing.T) {
	address, stop := startTCP(t, "127.0.0.1:0", echo)
	conn := dial(t, "dns:///"+address, ClientConfig{})
	if _, err := call(t.Context(), conn, "a"); err != nil {
		t.Fatal(err)
	}
	stop()
	if _, err := call(t.Context(), conn, "b"); wire.CodeOf(err) != wire.Unavailable {
		t.Fatalf("got %v", err)
	}
	startTCP(t, address, echo)
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if _, err := call(t.Context(), conn, "c"); err == nil {
			return
		} else if wire.CodeOf(err) != wire.Unavailable || time.Since(start) > 5*time.Second {
			t.Fatalf("after %v: %v", time.Since(start), err)
		}
	}
}

func TestAConnectionThatBreaksInACallIsUnavailable(t *testing.T) {
	s := NewServer(ServerConfig{})
	handler(func(ctx context.Context, _ string) (string, error) {
		go s.Stop()
		<-ctx.Done()
		return "", ctx.Err()
	}).register(s)
	s.SetServing(true)
	listener := listenTCP(t, "127.0.0.1:0")
	done := make(chan error, 1)
	go func() { done <- s.Serve(listener) }()
	conn := dial(t, listener.Addr().String(), ClientConfig{})
	if _, err := call(t.Context(), conn, ""); wire.CodeOf(err) != wire.Unavailable {
		t.Errorf("got %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAListIsBalancedAndADeadMemberIsPassedOver(t *testing.T) {
	named := func(name string) handler {
		return func(context.Context, string) (string, error) { return name, nil }
	}
	a, stopA := startTCP(t, "127.0.0.1:0", named("a"))
	b, _ := startTCP(t, "127.0.0.1:0", named("b"))
	conn := dial(t, a+", "+b, ClientConfig{})
	seen := map[string]bool{}
	for start := time.Now(); len(seen) < 2; {
		out, err := call(t.Context(), conn, "")
		if err != nil || time.Since(start) > 5*time.Second {
			t.Fatalf("seen %v: %v", seen, err)
		}
		seen[out] = true
	}
	stopA()
	for range 50 {
		if out, err := call(t.Context(), conn, ""); err != nil || out != "b" {
			t.Fatalf("got %q, %v", out, err)
		}
	}
}

func TestAServerThatIsNotServingGetsNoCalls(t *testing.T) {
	s := NewServer(ServerConfig{})
	handler(echo).register(s)
	listener := listenTCP(t, "127.0.0.1:0")
	run(t, s, listener)
	conn := dial(t, listener.Addr().String(), ClientConfig{})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := call(ctx, conn, ""); wire.CodeOf(err) != wire.Unavailable {
		t.Fatalf("got %v before SetServing", err)
	}
	s.SetServing(true)
	for {
		if _, err := call(ctx, conn, ""); err == nil {
			return
		} else if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

func TestStoppingWaitsForCallsUnderWayButNotForever(t *testing.T) {
	entered := make(chan struct{}, 1)
	release := make(chan struct{})
	for _, c := range []struct {
		name    string
		timeout time.Duration
		end     func()
		want    wire.Code
	}{
		{"waits", 5 * time.Second, func() { release <- struct{}{} }, ""},
		{"is bounded", 50 * time.Millisecond, func() {}, wire.Unavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := NewServer(ServerConfig{StopTimeout: c.timeout})
			handler(func(ctx context.Context, _ string) (string, error) {
				entered <- struct{}{}
				select {
				case <-release:
					return "", nil
				case <-ctx.Done():
					return "", ctx.Err()
				}
			}).register(s)
			s.SetServing(true)
			listener := listenTCP(t, "127.0.0.1:0")
			stop := run(t, s, listener)
			conn := dial(t, listener.Addr().String(), ClientConfig{})
			result := make(chan error, 1)
			go func() { _, err := call(context.Background(), conn, ""); result <- err }()
			<-entered
			stopped := make(chan struct{})
			go func() { stop(); close(stopped) }()
			c.end()
			if err := <-result; (c.want == "") != (err == nil) || (err != nil && wire.CodeOf(err) != c.want) {
				t.Errorf("the call under way got %v", err)
			}
			<-stopped
		})
	}
}

// A stream that watches a server's health does not end by itself.
func TestWhoWatchesAServersHealthHearsThatItStopsAndDoesNotHoldItUp(t *testing.T) {
	s := NewServer(ServerConfig{StopTimeout: time.Hour})
	s.SetServing(true)
	listener := bufconn.Listen(1 << 20)
	stop := run(t, s, listener)
	conn := dial(t, "passthrough:///bufconn", ClientConfig{Dialer: func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }})
	watch, err := grpc_health_v1.NewHealthClient(conn).Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	hears := func(want grpc_health_v1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		if health, err := watch.Recv(); err != nil || health.GetStatus() != want {
			t.Fatalf("%v, %v", health, err)
		}
	}
	hears(grpc_health_v1.HealthCheckResponse_SERVING)
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	hears(grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	if _, err := watch.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v", err)
	}
	<-stopped
}

func TestHealthAnswers(t *testing.T) {
	conn, _ := serve(t, echo, ServerConfig{}, ClientConfig{})
	for _, service := range []string{"", "test.Echo"} {
		health, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil || health.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, %v", service, health, err)
		}
	}
}

func TestATargetThatIsNoAddressIsRefused(t *testing.T) {
	for _, target := range []string{"", "rooms", "rooms:", ":50051", "a:1,,b:2", "a:65536", "a:0", "dns:///", "dns:///rooms", "dns:///:50051", "dns:///a:0", "dsn:///a:1", "xds:///a:1"} {
		if conn, err := Dial(target, ClientConfig{}); err == nil {
			conn.Close()
			t.Errorf("%q was accepted", target)
		}
	}
}
