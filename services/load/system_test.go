package load

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"github.com/anteroom-chat/anteroom/pkg/pipeline"
	"github.com/anteroom-chat/anteroom/pkg/redistest"
	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/rpc"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
	"github.com/anteroom-chat/anteroom/services/gateway"
	"github.com/anteroom-chat/anteroom/services/gateway/identity"
	"github.com/anteroom-chat/anteroom/services/gateway/origin"
	"github.com/anteroom-chat/anteroom/services/gateway/server"
	"github.com/anteroom-chat/anteroom/services/room"
	"github.com/anteroom-chat/anteroom/services/room/redisstore"
)

// system runs a room service and two gateways, and returns the gateways' base URLs. It
// uses a real Redis: the embedded store runs its scripts in this process, under the race
// detector, and cannot keep up with several storms.
func system(t *testing.T) []string {
	t.Helper()
	rdb := redistest.Client(t, redistest.Server(t).URL())
	layout := roomlog.Layout{Partitions: roomlog.DefaultPartitions}
	ctx, stop := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	t.Cleanup(func() { stop(); parts.Wait() })

	scripts := pipeline.New(rdb)
	t.Cleanup(scripts.Close)
	store, publisher := redisstore.New(rdb, scripts, layout), roomlog.NewPublisher(scripts, layout)
	rooms := rpc.NewServer(rpc.ServerConfig{})
	roomv1.RegisterRoomServiceServer(rooms, room.NewService(store, publisher))
	rooms.SetServing(true)
	inside := bufconn.Listen(1 << 20)
	parts.Go(func() { _ = rooms.Run(ctx, inside) })
	parts.Go(func() { room.Reap(ctx, store) })

	dial := func(ctx context.Context, _ string) (net.Conn, error) { return inside.DialContext(ctx) }
	cfg := gateway.Config{Redis: rdb, Layout: layout, MessageRate: 20, MessageBurst: 40, WalkIn: true}
	var err error
	if cfg.Identities, err = identity.NewSigner([]byte("a key of at least thirty-two bytes"), time.Hour); err != nil {
		t.Fatal(err)
	}
	if cfg.Origins, err = origin.Parse(""); err != nil {
		t.Fatal(err)
	}
	var urls []string
	for _, cfg.ID = range []string{"g1", "g2"} {
		url, run := startGateway(t, cfg, dial)
		urls = append(urls, url)
		parts.Go(func() { run(ctx) })
	}
	return urls
}

// startGateway opens a gateway's port; run serves it until its context ends.
func startGateway(t *testing.T, cfg gateway.Config, dial func(context.Context, string) (net.Conn, error)) (url string, run func(context.Context)) {
	t.Helper()
	conn, err := rpc.Dial("passthrough:///rooms", rpc.ClientConfig{Dialer: dial})
	if err != nil {
		t.Fatal(err)
	}
	gw, err := server.New(server.Config{Gateway: cfg, RoomsConn: conn, DrainTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return "http://" + listener.Addr().String(), func(ctx context.Context) {
		_ = gw.Run(ctx, listener)
		_ = conn.Close()
	}
}
