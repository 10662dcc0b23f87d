// Command gateway is the WebSocket gateway with /v1 and the demo page. It keeps no
// state that must survive it, so any number of instances can run side by side.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/rpc"
	"github.com/anteroom-chat/anteroom/pkg/run"
	"github.com/anteroom-chat/anteroom/pkg/tracing"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/gateway/server"
)

// settings are flags, and environment variables of the same name.
type settings struct {
	Listen       string        `help:"Address of the page, HTTP and WebSocket." default:"127.0.0.1:8080" env:"LISTEN"`
	AdminListen  string        `help:"Address of metrics, health and pprof." default:"127.0.0.1:9181" env:"ADMIN_LISTEN"`
	Redis        string        `help:"URL of Redis, redis:// or rediss://." default:"redis://127.0.0.1:6379/0" env:"REDIS"`
	Rooms        string        `help:"The room services: a gRPC target, or HOST:PORT,HOST:PORT." default:"dns:///127.0.0.1:50051" env:"ROOMS"`
	IdentityKey  string        `help:"Key that signs identities (HS256), at least 32 bytes, the same for every gateway. Required." env:"IDENTITY_KEY"`
	GatewayID    string        `help:"Unique name among the gateways, 1 to 64 of A-Z a-z 0-9 _ -. Made at start when empty." env:"GATEWAY_ID"`
	DrainTimeout time.Duration `help:"How long a stop waits for members to move to other gateways, 0s to 30s. Allow a stop 5s more before it is killed." default:"30s" env:"DRAIN_TIMEOUT"`
	LogLevel     string        `help:"debug, info, warn or error." enum:"debug,info,warn,error" default:"info" env:"LOG_LEVEL"`
	Healthcheck  run.Probe     `help:"Ask the process at --admin-listen whether it is live or ready, and exit with 0 or 1; off by default." enum:"live,ready," default:"" placeholder:"live|ready" env:"HEALTHCHECK"`

	server.Settings
	Tracing tracing.Settings `embed:""`
}

// Validate is called by kong, before the gateway connects to anything.
func (s *settings) Validate() error {
	if s.GatewayID == "" {
		s.GatewayID = "gw-" + strings.ToLower(rand.Text()[:12])
	}
	if err := wire.CheckID("--gateway-id", s.GatewayID); err != nil {
		return errors.New(wire.AsError(err).Detail)
	}
	if s.DrainTimeout < 0 || s.DrainTimeout > 30*time.Second {
		return fmt.Errorf("--drain-timeout is %v, outside 0s to 30s", s.DrainTimeout)
	}
	return cmp.Or(run.CheckAddress("--listen", s.Listen), run.CheckAddress("--admin-listen", s.AdminListen), s.Check(), s.Tracing.Check())
}

func main() {
	var s settings
	k := kong.Parse(&s, kong.Name("gateway"), kong.Description("Anteroom's WebSocket gateway."))
	ctx, stop := run.Signals(context.Background())
	defer stop()
	if s.Healthcheck != "" {
		k.FatalIfErrorf(run.HealthCheck(ctx, s.Healthcheck, s.AdminListen))
		return
	}
	k.FatalIfErrorf(s.serve(ctx))
}

func (s *settings) serve(ctx context.Context) error {
	cfg, err := s.Gateway(s.GatewayID, s.IdentityKey)
	if err != nil {
		return err
	}
	logger, err := run.NewLogger(os.Stderr, s.LogLevel)
	if err != nil {
		return err
	}
	tracer, err := s.Tracing.Start("gateway", s.GatewayID)
	if err != nil {
		return err
	}
	defer tracer.Close()
	if tracer != nil {
		cfg.Trace = tracer.Begin
	}
	registry := run.NewRegistry()
	cfg.Registry = registry
	conn, err := rpc.Dial(s.Rooms, rpc.ClientConfig{Metrics: registry, Stats: tracer.Client()})
	if err != nil {
		return fmt.Errorf("--rooms: %w", err)
	}
	defer conn.Close()
	if cfg.Redis, err = roomlog.Connect(s.Redis); err != nil {
		return fmt.Errorf("--redis: %w", err)
	}
	defer cfg.Redis.Close()
	agree := func(ctx context.Context) error { return roomlog.Agree(ctx, cfg.Redis, cfg.Layout) }
	if err := run.Await(ctx, "Redis", agree); err != nil {
		return err
	}
	listener, err := server.Listen(s.Listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	defer listener.Close()
	gw, err := server.New(server.Config{
		Gateway: cfg, RoomsConn: conn, DrainTimeout: s.DrainTimeout,
		Rate: s.Rate(), ConnectRate: s.Connects(),
	})
	if err != nil {
		return err
	}
	admin, err := run.ListenAdmin(s.AdminListen, registry, run.Check{Name: "gateway", Ready: gw.Ready})
	if err != nil {
		return fmt.Errorf("--admin-listen: %w", err)
	}
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	admin.HandleDrain(func() { gw.Retire(); leave() })
	logger.Info("gateway is ready", "listen", listener.Addr().String(), "admin", admin.Addr(), "gateway_id", s.GatewayID)
	group := run.Group{Logger: logger}
	group.Add("admin", admin.Run)
	group.Add("gateway", func(ctx context.Context) error { return gw.Run(ctx, listener) })
	return group.Run(ctx)
}
