// Package tracing sends traces to an OpenTelemetry collector: of requests and joins at a
// gateway, and of the calls that they cause. Only the commands import it. It is off by default,
// and then costs nothing.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// closeTimeout is how long Close waits for the collector to take the last spans.
const closeTimeout = 2 * time.Second

// Settings are flags, and environment variables of the same name.
type Settings struct {
	Traces     string  `help:"URL of an OpenTelemetry collector, http:// or https://, which gets traces by OTLP over gRPC. None by default." placeholder:"http://HOST:4317" env:"TRACES"`
	TraceShare float64 `help:"Share of the traces that are sent, 0 to 1. Internal callers that trace decide for their own calls." default:"0.01" env:"TRACE_SHARE"`
}

// Check returns an error for settings that Start would refuse.
func (s *Settings) Check() error {
	if !(s.TraceShare >= 0 && s.TraceShare <= 1) { // NaN is outside too
		return fmt.Errorf("--trace-share is %v, outside 0 to 1", s.TraceShare)
	}
	if s.Traces == "" {
		return nil
	}
	u, err := url.Parse(s.Traces)
	if err == nil {
		port, err := strconv.ParseUint(u.Port(), 10, 16)
		plain := url.URL{Scheme: u.Scheme, Host: u.Host} // without user, path, query
		if (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && err == nil && port > 0 && plain.String() == strings.TrimSuffix(s.Traces, "/") {
			return nil
		}
	}
	return errors.New("--traces is not http://HOST:PORT or https://HOST:PORT")
}

// Tracer makes spans and sends them. A nil Tracer does nothing.
type Tracer struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// Start returns a Tracer for a process: an instance, such as "gw-1", of a service, such as
// "gateway". It returns nil if the settings name no collector. It does not wait for the
// collector: while that is away, spans are dropped and a warning is logged.
//
// The variables OTEL_RESOURCE_ATTRIBUTES and OTEL_EXPORTER_OTLP_* (headers, certificates,
// timeouts) apply as usual, apart from the address.
func (s *Settings) Start(service, instance string) (*Tracer, error) {
	if s.Traces == "" {
		return nil, nil
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { slog.Warn("traces are lost", "err", err) }))
	ctx := context.Background() // the exporter connects when it has spans
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(s.Traces))
	if err != nil {
		return nil, fmt.Errorf("--traces: %w", err)
	}
	about, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.namespace", "anteroom"),
			attribute.String("service.name", service), attribute.String("service.instance.id", instance)),
		resource.WithFromEnv(), resource.WithTelemetrySDK())
	if err != nil {
		return nil, fmt.Errorf("--traces: %w", err)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter), sdktrace.WithResource(about),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(s.TraceShare))))
	return &Tracer{provider: provider, tracer: provider.Tracer("github.com/anteroom-chat/anteroom")}, nil
}

// Begin begins a span: a child of that in ctx, or else the root of a new trace. end ends it with
// a result, such as a status or an error's code. failed says that the service is to blame.
func (t *Tracer) Begin(ctx context.Context, name string) (_ context.Context, end func(result string, failed bool)) {
	if t == nil {
		return ctx, func(string, bool) {}
	}
	kind := trace.SpanKindInternal
	if !trace.SpanContextFromContext(ctx).IsValid() {
		kind = trace.SpanKindServer
	}
	ctx, span := t.tracer.Start(ctx, name, trace.WithSpanKind(kind))
	return ctx, func(result string, failed bool) {
		span.SetAttributes(attribute.String("anteroom.result", result))
		if failed {
			span.SetStatus(codes.Error, result)
		}
		span.End()
	}
}

// Client returns what makes a span of each call that is made, and carries the trace to the
// server. It returns nil for a nil Tracer.
func (t *Tracer) Client() stats.Handler {
	if t == nil {
		return nil
	}
	return nameless{otelgrpc.NewClientHandler(t.options()...)}
}

// Server returns what makes a span of each call that is served. It returns nil for a nil
// Tracer.
func (t *Tracer) Server() stats.Handler {
	if t == nil {
		return nil
	}
	return nameless{otelgrpc.NewServerHandler(t.options()...)}
}

// options leave out health checks, of which there are more than of anything else in a quiet
// cluster.
func (t *Tracer) options() []otelgrpc.Option {
	health := "/" + grpc_health_v1.Health_ServiceDesc.ServiceName + "/"
	return []otelgrpc.Option{
		otelgrpc.WithTracerProvider(t.provider),
		otelgrpc.WithPropagators(propagation.TraceContext{}),
		otelgrpc.WithFilter(func(call *stats.RPCTagInfo) bool { return !strings.HasPrefix(call.FullMethodName, health) }),
	}
}

// nameless keeps the details of errors out of spans, since they name rooms. Their codes stay.
type nameless struct{ stats.Handler }

// HandleRPC is called with each event of a call.
func (h nameless) HandleRPC(ctx context.Context, event stats.RPCStats) {
	if end, ok := event.(*stats.End); ok && end.Error != nil {
		without := *end
		without.Error = status.Error(status.Code(end.Error), "")
		event = &without
	}
	h.Handler.HandleRPC(ctx, event)
}

// Close sends the spans that have ended. It waits at most 2 s for the collector.
func (t *Tracer) Close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		otel.Handle(err)
	}
}
