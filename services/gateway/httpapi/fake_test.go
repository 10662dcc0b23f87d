package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/anteroom-chat/anteroom/pkg/rpc"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
	"github.com/anteroom-chat/anteroom/services/gateway/identity"
)

// fakeRooms answers as the room service does, with its validation where a test
// depends on it, and fails with err when that is set.
type fakeRooms struct {
	roomv1.UnimplementedRoomServiceServer

	mu      sync.Mutex
	err     error
	created *roomv1.CreateRoomRequest
	listed  *roomv1.ListRoomsRequest
	reserve *roomv1.ReservePermitRequest
	cancels int
	rooms   []*roomv1.Room // returned by ListRooms
}

var createTime = time.Date(2027, 1, 2, 3, 4, 5, 6_000_000, time.UTC)

func (f *fakeRooms) CreateRoom(_ context.Context, req *roomv1.CreateRoomRequest) (*roomv1.CreateRoomResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.created = req
	if f.err != nil {
		return nil, f.err
	}
	id := req.GetRoomId()
	if id == "" {
		id = "made"
	}
	for _, err := range []error{
		wire.CheckID("roomId", id),
		wire.CheckText("title", req.GetTitle(), wire.MaxTitleLen),
		wire.CheckRange("capacity", int(req.GetCapacity()), 1, wire.MaxCapacity),
	} {
		if err != nil {
			return nil, err
		}
	}
	presence := req.GetPresence()
	if presence == roomv1.Presence_PRESENCE_UNSPECIFIED {
		presence = roomv1.Presence_PRESENCE_FULL
	}
	return &roomv1.CreateRoomResponse{Room: &roomv1.Room{
		RoomId: id, Epoch: "e1", Title: req.GetTitle(), Capacity: req.GetCapacity(),
		Presence: presence, CreateTime: timestamppb.New(createTime),
	}}, nil
}

func (f *fakeRooms) GetRoom(_ context.Context, req *roomv1.GetRoomRequest) (*roomv1.GetRoomResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return nil, f.err
	}
	if err := wire.CheckID("roomId", req.GetRoomId()); err != nil {
		return nil, err
	}
	return &roomv1.GetRoomResponse{Room: &roomv1.Room{
		RoomId: req.GetRoomId(), Epoch: "e1", Capacity: 8, Reserved: 1, Occupied: 2,
		Presence: roomv1.Presence_PRESENCE_COUNT, CreateTime: timestamppb.New(createTime),
	}}, nil
}

func (f *fakeRooms) ListRooms(_ context.Context, req *roomv1.ListRoomsRequest) (*roomv1.ListRoomsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listed = req
	return &roomv1.ListRoomsResponse{Rooms: f.rooms, NextPageToken: req.GetPageToken()}, f.err
}

func (f *fakeRooms) ReservePermit(_ context.Context, req *roomv1.ReservePermitRequest) (*roomv1.ReservePermitResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reserve = req
	return &roomv1.ReservePermitResponse{
		Permit: req.GetRoomId() + ".secret", RoomId: req.GetRoomId(), UserId: req.GetUserId(),
		ExpireTime: timestamppb.New(createTime), Ttl: durationpb.New(wire.PermitTTL),
	}, f.err
}

func (f *fakeRooms) CancelPermit(context.Context, *roomv1.CancelPermitRequest) (*roomv1.CancelPermitResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cancels++
	return &roomv1.CancelPermitResponse{}, f.err
}

func (f *fakeRooms) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// gateway is the interface over real HTTP, with the fake over real gRPC behind it.
type gateway struct {
	t      *testing.T
	url    string
	rooms  *fakeRooms
	log    *bytes.Buffer
	signer *identity.Signer
}

func newGateway(t *testing.T, change func(*Config)) *gateway {
	t.Helper()
	g := &gateway{t: t, rooms: new(fakeRooms), log: new(bytes.Buffer)}
	server := rpc.NewServer(rpc.ServerConfig{Logger: slog.New(slog.DiscardHandler)})
	roomv1.RegisterRoomServiceServer(server, g.rooms)
	server.SetServing(true)
	listener := bufconn.Listen(1 << 20)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx, listener) }()
	conn, err := rpc.Dial("passthrough:///bufconn", rpc.ClientConfig{
		Dialer: func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if g.signer, err = identity.NewSigner(bytes.Repeat([]byte("k"), 32), 0); err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Rooms: roomv1.NewRoomServiceClient(conn), Identities: g.signer,
		Logger: slog.New(slog.NewTextHandler(g.log, nil)), // read after the requests only
	}
	if change != nil {
		change(&cfg)
	}
	front := httptest.NewServer(New(cfg))
	g.url = front.URL
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		front.Close()
		conn.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return g
}

// answer is a response with its body read.
type answer struct {
	status int
	header http.Header
	body   string
}

func (g *gateway) do(method, path, body string, header ...string) answer {
	g.t.Helper()
	req, err := http.NewRequest(method, g.url+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req) // no redirects followed
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(text)}
}

func (a answer) json(t *testing.T) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(a.body), &m); err != nil {
		t.Fatalf("%d %q: %v", a.status, a.body, err)
	}
	return m
}

// expectProblem checks the whole form of a problem.
func (a answer) expectProblem(t *testing.T, status int, code wire.Code) {
	t.Helper()
	if a.status != status || a.header.Get("Content-Type") != "application/problem+json" {
		t.Fatalf("got %d %s %q, want %d", a.status, a.header.Get("Content-Type"), a.body, status)
	}
	m := a.json(t)
	if m["code"] != string(code) || m["status"] != float64(status) || len(m) != 5 {
		t.Fatalf("got %s, want code %s", a.body, code)
	}
	for _, field := range []string{"type", "title", "detail"} {
		if s, _ := m[field].(string); s == "" {
			t.Errorf("%s is missing in %s", field, a.body)
		}
	}
	if retry := code == wire.RateLimited || code == wire.Unavailable; retry != (a.header.Get("Retry-After") != "") {
		t.Errorf("Retry-After %q on %s", a.header.Get("Retry-After"), code)
	}
	if a.header.Get("Cache-Control") != "no-store" {
		t.Error("the answer may be stored")
	}
}

func (g *gateway) bearer() string {
	g.t.Helper()
	token, _, err := g.signer.Make("Ann")
	if err != nil {
		g.t.Fatal(err)
	}
	return "Bearer " + token
}
