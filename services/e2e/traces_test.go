package e2e

import (
	"context"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
)

// collector stands in for an OpenTelemetry collector.
type collector struct {
	collectorv1.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans map[string]span // by trace id and span id
}

type span struct {
	*tracev1.Span
	service string
}

func startCollector(t *testing.T) (c *collector, url string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	c = &collector{spans: make(map[string]span)}
	server := grpc.NewServer()
	collectorv1.RegisterTraceServiceServer(server, c)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		must(t, <-served)
	})
	return c, "http://" + listener.Addr().String()
}

func (c *collector) Export(_ context.Context, r *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, process := range r.GetResourceSpans() {
		var service string
		for _, a := range process.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				service = a.GetValue().GetStringValue()
			}
		}
		for _, scope := range process.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				c.spans[string(s.GetTraceId())+string(s.GetSpanId())] = span{s, service}
			}
		}
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

// paths lists the spans with those above them: "gateway join > gateway follow". A root has its
// result too, if it has one.
func (c *collector) paths() (paths []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		path := ""
		for ok := true; ok; {
			name := s.service + " " + s.GetName()
			for _, a := range s.GetAttributes() {
				if a.GetKey() == "anteroom.result" && len(s.GetParentSpanId()) == 0 {
					name += " = " + a.GetValue().GetStringValue()
				}
			}
			path = strings.TrimSuffix(name+" > "+path, " > ")
			above := string(s.GetTraceId()) + string(s.GetParentSpanId())
			if s, ok = c.spans[above]; !ok && len(above) > 16 {
				path = "missing > " + path
			}
		}
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths
}

func TestATraceLeadsFromTheUserToTheRoomService(t *testing.T) {
	t.Parallel()
	c, url := startCollector(t)
	v := start(t, cluster.Options{Rooms: 1, Gateways: 1, Settings: []string{
		"TRACES=" + url, "TRACE_SHARE=1", "OTEL_BSP_SCHEDULE_DELAY=50", // ms
	}})
	room := v.room(t, client.RoomSpec{Capacity: 1})
	ann, bob := v.identity(t, "Ann"), v.identity(t, "Bob")
	reserve, err := http.NewRequestWithContext(within(t, soon), http.MethodPost, v.URL()+"/v1/rooms/"+room.RoomID+"/permits", http.NoBody)
	must(t, err)
	reserve.Header.Set("Authorization", "Bearer "+ann.Identity)
	// Ann traces too. Her trace says that nothing is to be recorded, which does not count here.
	reserve.Header.Set("Traceparent", "00-0123456789abcdef0123456789abcdef-0123456789abcdef-00")
	reserved, err := http.DefaultClient.Do(reserve)
	must(t, err)
	reserved.Body.Close()
	v.join(t, "", room.RoomID, ann)
	_, err = v.Join(within(t, soon), client.JoinOptions{RoomID: room.RoomID, Identity: bob.Identity})
	wantRefusal(t, err, wire.RoomFull)

	const calls = "anteroom.room.v1.RoomService/"
	want := []string{
		"gateway POST /v1/rooms = 201 > gateway " + calls + "CreateRoom > room " + calls + "CreateRoom",
		"gateway POST /v1/identities = 201",
		"gateway POST /v1/rooms/{roomId}/permits = 201 > gateway " + calls + "ReservePermit > room " + calls + "ReservePermit",
		"gateway join = ok > gateway follow",
		"gateway join = ok > gateway " + calls + "ConfirmJoin > room " + calls + "ConfirmJoin",
		"gateway join = ROOM_FULL > gateway " + calls + "ConfirmJoin > room " + calls + "ConfirmJoin",
	}
	defer func() {
		if t.Failed() {
			t.Logf("spans that did not come: %q\nspans: %q", want, c.paths())
		}
	}()
	eventually(t, soon, "the spans have come, each with that above it", func() bool {
		paths := c.paths()
		want = slices.DeleteFunc(want, func(path string) bool { return slices.Contains(paths, path) })
		return len(want) == 0 && !slices.ContainsFunc(paths, func(path string) bool { return strings.Contains(path, "missing") })
	})
	c.mu.Lock()
	for _, s := range c.spans {
		if text := s.String(); strings.Contains(text, room.RoomID) || strings.Contains(text, ann.UserID) || strings.Contains(text, bob.UserID) {
			t.Errorf("a span names the room or a user: %s", text)
		}
	}
	c.mu.Unlock()
	if paths := c.paths(); strings.Contains(strings.Join(paths, "\n"), "Health") {
		t.Errorf("health checks are traced: %q", paths)
	}
}
