package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"os/exec"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/stats"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
)

// startPair starts one room service and one gateway.
func startPair(t *testing.T) *cluster.Cluster {
	t.Helper()
	return cluster.Start(t, cluster.Options{Rooms: 1, Gateways: 1, NoProxy: true})
}

// dialRoom connects the test itself to a room service.
func dialRoom(t *testing.T, room *cluster.Process, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(room.Addr(), append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestPostDrainStopsAGatewayAsSIGTERMDoes(t *testing.T) {
	t.Parallel()
	g := startPair(t).Gateways[0]
	wantDrain(t, g.URL(), g.AdminURL())
	must(t, g.Wait(within(t, drainedWithin)))
}

func TestPostDrainStopsDevAsSIGTERMDoes(t *testing.T) {
	t.Parallel()
	dev := exec.CommandContext(within(t, drainedWithin), cluster.Binary(t, "anteroom"), "dev", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0")
	output, err := dev.StderrPipe()
	must(t, err)
	must(t, dev.Start())
	var ready struct{ URL, Admin string }
	lines := bufio.NewScanner(output)
	for ready.URL == "" && lines.Scan() {
		_ = json.Unmarshal(lines.Bytes(), &ready)
	}
	wantDrain(t, ready.URL, ready.Admin)
	for lines.Scan() { // read to the end
	}
	must(t, dev.Wait())
}

// wantDrain drains a process that is a gateway, and watches it until its member is closed.
func wantDrain(t *testing.T, public, admin string) {
	t.Helper()
	c, err := client.New(public)
	must(t, err)
	t.Cleanup(c.CloseIdleConnections)
	v := &venue{Client: c}
	member := v.join(t, "", v.room(t, client.RoomSpec{Capacity: 2}).RoomID, v.identity(t, ""))
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete} {
		if status := ask(t, method, admin+"/drain"); status != http.StatusMethodNotAllowed {
			t.Errorf("%s /drain answered %d", method, status)
		}
	}
	if status := ask(t, http.MethodGet, public+"/readyz"); status != http.StatusOK {
		t.Fatalf("/readyz answered %d", status)
	}
	if status := ask(t, http.MethodPost, admin+"/drain"); status != http.StatusAccepted {
		t.Fatalf("POST /drain answered %d", status)
	}
	for _, base := range []string{public, admin} {
		if status := ask(t, http.MethodGet, base+"/readyz"); status != http.StatusServiceUnavailable {
			t.Errorf("%s/readyz answered %d at once", base, status)
		}
	}
	receive(t, member, soon, wire.TypeDraining)
	wantClose(t, member, soon, wire.CloseRestart)
}

// ask returns the status of a request without a body.
func ask(t *testing.T, method, url string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t, soon), method, url, nil)
	must(t, err)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	resp.Body.Close()
	return resp.StatusCode
}

// sent receives a value when a call has been written to its connection.
type sent chan struct{}

func (s sent) HandleRPC(_ context.Context, event stats.RPCStats) {
	if _, ok := event.(*stats.OutPayload); ok {
		s <- struct{}{}
	}
}
func (sent) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (sent) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (sent) HandleConn(context.Context, stats.ConnStats)                       {}

func TestARoomServiceThatStopsAnswersTheCallsItHas(t *testing.T) {
	t.Parallel()
	c := startPair(t)
	room, rdb := c.Rooms[0], c.RedisClient(t)
	calls := make(sent, 2)
	conn := dialRoom(t, room, grpc.WithStatsHandler(calls))

	must(t, rdb.Do(within(t, soon), "CLIENT", "PAUSE", soon.Milliseconds(), "WRITE").Err())
	answered := make(chan error, 1)
	go func() {
		_, err := roomv1.NewRoomServiceClient(conn).CreateRoom(within(t, soon), &roomv1.CreateRoomRequest{Capacity: 2})
		answered <- err
	}()
	<-calls
	// The health check came after the call on the same connection. So if it is answered, the
	// call has arrived.
	_, err := grpc_health_v1.NewHealthClient(conn).Check(within(t, soon), &grpc_health_v1.HealthCheckRequest{})
	must(t, err)
	must(t, room.Terminate())
	eventually(t, soon, "the room service is not ready", func() bool {
		return ask(t, http.MethodGet, room.AdminURL()+"/readyz") == http.StatusServiceUnavailable
	})
	select {
	case err := <-answered:
		t.Fatalf("the call was answered while Redis took nothing: %v", err)
	default:
	}
	must(t, rdb.Do(within(t, soon), "CLIENT", "UNPAUSE").Err())
	must(t, <-answered)
	must(t, room.Wait(within(t, soon)))
}
