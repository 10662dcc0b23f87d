package tracing

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
)

func TestSettingsWithoutACollectorsAddressAreRefused(t *testing.T) {
	for traces, good := range map[string]bool{
		"": true, "http://collector:4317": true, "https://collector:4317/": true, "http://[::1]:4317": true,
		"collector:4317": false, "http://": false, "http://collector": false, "http://collector:": false, "http://:4317": false,
		"http://collector:0": false, "http://collector:65536": false, "http://u:secret@collector:4317": false,
		"http://collector:4317/v1/traces": false, "http://collector:4317?x=1": false, "http://collector:4317#x": false, "ftp://collector:4317": false,
	} {
		s := Settings{Traces: traces, TraceShare: 1}
		if err := s.Check(); (err == nil) != good || err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", traces, err)
		}
	}
}

func TestWithoutACollectorNothingIsTraced(t *testing.T) {
	tracer, err := new(Settings).Start("service", "instance")
	if err != nil || tracer != nil || tracer.Client() != nil || tracer.Server() != nil {
		t.Fatal(tracer, err)
	}
	ctx, end := tracer.Begin(t.Context(), "span")
	end("ok", false)
	if ctx != t.Context() {
		t.Error("the context was changed")
	}
	tracer.Close()
}

// collector hands on what it gets.
type collector struct {
	collectorv1.UnimplementedTraceServiceServer
	got chan *tracev1.Span
}

func (c collector) Export(_ context.Context, r *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	for _, process := range r.GetResourceSpans() {
		for _, scope := range process.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				c.got <- span
			}
		}
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestCloseSendsWhatHasEnded(t *testing.T) {
	l, c, server := listen(t), collector{got: make(chan *tracev1.Span, 1)}, grpc.NewServer()
	collectorv1.RegisterTraceServiceServer(server, c)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "600000") // ms: nothing is sent before Close
	tracer, err := (&Settings{Traces: "http://" + l.Addr().String(), TraceShare: 1}).Start("service", "instance")
	if err != nil {
		t.Fatal(err)
	}
	_, end := tracer.Begin(t.Context(), "join")
	end("UNAVAILABLE", true)
	tracer.Close()
	select {
	case span := <-c.got:
		if span.GetName() != "join" || span.GetStatus().GetCode() != tracev1.Status_STATUS_CODE_ERROR {
			t.Errorf("got %v", span)
		}
	default:
		t.Error("Close has sent nothing")
	}
}

func TestCloseDoesNotWaitForACollectorThatHangs(t *testing.T) {
	l := listen(t)
	defer l.Close()
	hung := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			defer conn.Close()
			_, err = conn.Read(make([]byte, 1))
		}
		hung <- err
		<-t.Context().Done()
	}()
	tracer, err := (&Settings{Traces: "http://" + l.Addr().String(), TraceShare: 1}).Start("service", "instance")
	if err != nil {
		t.Fatal(err)
	}
	_, end := tracer.Begin(t.Context(), "join")
	end("ok", false)
	began := time.Now()
	tracer.Close()
	if err := <-hung; err != nil {
		t.Fatal("nothing was sent to the collector:", err)
	}
	if d := time.Since(began); d > 10*closeTimeout {
		t.Error("Close took", d)
	}
}
