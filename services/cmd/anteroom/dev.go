package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2"
	"google.golang.org/grpc/test/bufconn"

	"github.com/anteroom-chat/anteroom/pkg/pipeline"
	"github.com/anteroom-chat/anteroom/pkg/redisdb"
	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/rpc"
	"github.com/anteroom-chat/anteroom/pkg/run"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
	"github.com/anteroom-chat/anteroom/services/gateway"
	"github.com/anteroom-chat/anteroom/services/gateway/server"
	"github.com/anteroom-chat/anteroom/services/room"
	"github.com/anteroom-chat/anteroom/services/room/redisstore"
)

// dev runs a room service and a gateway, connected as in production.
type dev struct {
	Listen      string    `help:"Address of the page, HTTP and WebSocket." default:"127.0.0.1:8080" env:"LISTEN"`
	AdminListen string    `help:"Address of metrics, health and pprof." default:"127.0.0.1:9180" env:"ADMIN_LISTEN"`
	Redis       string    `help:"URL of a Redis to use instead of the embedded store. None by default." placeholder:"redis://HOST:PORT/DB" env:"REDIS"`
	IdentityKey string    `help:"Key that signs identities, at least 32 bytes. Made at start when empty." env:"IDENTITY_KEY"`
	LogLevel    string    `help:"debug, info, warn or error." enum:"debug,info,warn,error" default:"info" env:"LOG_LEVEL"`
	Healthcheck run.Probe `help:"Ask the process at --admin-listen whether it is live or ready, and exit with 0 or 1; off by default." enum:"live,ready," default:"" placeholder:"live|ready" env:"HEALTHCHECK"`

	server.Settings
}

// Validate is called by kong.
func (d *dev) Validate() error {
	return cmp.Or(run.CheckAddress("--listen", d.Listen), run.CheckAddress("--admin-listen", d.AdminListen), d.Check())
}

func (d *dev) Run(ctx context.Context) error {
	if d.Healthcheck != "" {
		return run.HealthCheck(ctx, d.Healthcheck, d.AdminListen)
	}
	if _, err := run.NewLogger(os.Stderr, d.LogLevel); err != nil {
		return err
	}
	cfg, closeStore, err := d.prepare(ctx)
	if err != nil {
		return err
	}
	defer closeStore()
	listener, err := server.Listen(d.Listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	return d.serve(ctx, cfg, listener)
}

// prepare returns the gateway's configuration, with the store that the parts share, and a
// function that closes the store. It returns when the store is reachable.
func (d *dev) prepare(ctx context.Context) (gateway.Config, func(), error) {
	if d.IdentityKey == "" {
		d.IdentityKey = rand.Text() + rand.Text()
		slog.Info("made an IDENTITY_KEY for this run: identities are good until it ends")
	}
	cfg, err := d.Gateway("dev-"+strings.ToLower(rand.Text()[:8]), d.IdentityKey)
	if err != nil {
		return cfg, nil, err
	}
	rdb, closeStore, err := d.store()
	if err != nil {
		return cfg, nil, err
	}
	cfg.Redis = rdb
	agree := func(ctx context.Context) error { return roomlog.Agree(ctx, rdb, cfg.Layout) }
	if err := run.Await(ctx, "Redis", agree); err != nil {
		closeStore()
		return cfg, nil, err
	}
	return cfg, closeStore, nil
}

func (d *dev) serve(ctx context.Context, cfg gateway.Config, listener net.Listener) error {
	registry := run.NewRegistry()
	scripts := pipeline.New(cfg.Redis)
	defer scripts.Close()
	store, publisher := redisstore.New(cfg.Redis, scripts, cfg.Layout), roomlog.NewPublisher(scripts, cfg.Layout)
	rooms := rpc.NewServer(rpc.ServerConfig{Metrics: registry})
	roomv1.RegisterRoomServiceServer(rooms, room.NewService(store, publisher))
	rooms.SetServing(true)
	inside := bufconn.Listen(1 << 20)
	conn, err := rpc.Dial("passthrough:///rooms", rpc.ClientConfig{
		Metrics: registry,
		Dialer:  func(ctx context.Context, _ string) (net.Conn, error) { return inside.DialContext(ctx) },
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	cfg.Registry = registry
	gw, err := server.New(server.Config{Gateway: cfg, RoomsConn: conn, Rate: d.Rate(), ConnectRate: d.Connects(), DrainTimeout: 2 * time.Second})
	if err != nil {
		return err
	}
	admin, err := run.ListenAdmin(d.AdminListen, registry, run.Check{Name: "gateway", Ready: gw.Ready})
	if err != nil {
		return fmt.Errorf("--admin-listen: %w", err)
	}
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	admin.HandleDrain(func() { gw.Retire(); leave() })
	slog.Info("Anteroom is ready: open the page", "url", "http://"+listener.Addr().String(), "admin", "http://"+admin.Addr())
	var group run.Group
	group.Add("admin", admin.Run)
	group.Add("rooms", func(ctx context.Context) error { return rooms.Run(ctx, inside) })
	group.Add("reaper", func(ctx context.Context) error { room.Reap(ctx, store); return nil })
	group.Add("gateway", func(ctx context.Context) error { return gw.Run(ctx, listener) })
	return group.Run(ctx)
}

// store connects to the Redis at d.Redis, or else to an embedded one that forgets
// everything when the process ends. The returned function closes both.
func (d *dev) store() (redisdb.Redis, func(), error) {
	url, end := d.Redis, func() {}
	if url == "" {
		embedded := miniredis.NewMiniRedis()
		embedded.ClockTTL(true)
		if err := embedded.Start(); err != nil {
			return nil, nil, fmt.Errorf("embedded store: %w", err)
		}
		slog.Info("on the embedded store: for trying out and developing, everything is forgotten at the end")
		url, end = "redis://"+embedded.Addr(), embedded.Close
	}
	rdb, err := roomlog.Connect(url)
	if err != nil {
		end()
		return nil, nil, fmt.Errorf("--redis: %w", err)
	}
	return rdb, func() { _ = rdb.Close(); end() }, nil
}
