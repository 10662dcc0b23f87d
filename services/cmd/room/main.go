// Command room is the room service: it owns rooms, permits, seats and leases. Any
// number of instances can run side by side on one Redis.
package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"runtime/debug"

	"github.com/alecthomas/kong"
	"google.golang.org/grpc/reflection"

	"github.com/anteroom-chat/anteroom/pkg/pipeline"
	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/rpc"
	"github.com/anteroom-chat/anteroom/pkg/run"
	"github.com/anteroom-chat/anteroom/pkg/tracing"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
	"github.com/anteroom-chat/anteroom/services/room"
	"github.com/anteroom-chat/anteroom/services/room/redisstore"
)

// gcPercent is used if GOGC is not set. Only a few MB are live. With Go's default of 100 they
// would be collected several times a second while many users join, which takes a tenth to a
// quarter of the CPU to save 10 MB.
const gcPercent = 400

// settings are flags, and environment variables of the same name.
type settings struct {
	Listen      string    `help:"Address of gRPC." default:"127.0.0.1:50051" env:"LISTEN"`
	AdminListen string    `help:"Address of metrics, health and pprof." default:"127.0.0.1:9101" env:"ADMIN_LISTEN"`
	Redis       string    `help:"URL of Redis, redis:// or rediss://." default:"redis://127.0.0.1:6379/0" env:"REDIS"`
	Partitions  int       `help:"Number of partitions that rooms hash to, 1 to 4096; all processes must agree, and it cannot be changed while rooms live." default:"64" env:"PARTITIONS"`
	LogLevel    string    `help:"debug, info, warn or error." enum:"debug,info,warn,error" default:"info" env:"LOG_LEVEL"`
	Healthcheck run.Probe `help:"Ask the process at --admin-listen whether it is live or ready, and exit with 0 or 1; off by default." enum:"live,ready," default:"" placeholder:"live|ready" env:"HEALTHCHECK"`

	Tracing tracing.Settings `embed:""`
}

// Validate is called by kong.
func (s *settings) Validate() error {
	return cmp.Or(s.layout().Check(), run.CheckAddress("--listen", s.Listen), run.CheckAddress("--admin-listen", s.AdminListen), s.Tracing.Check())
}

func (s *settings) layout() roomlog.Layout { return roomlog.Layout{Partitions: s.Partitions} }

// instance names this process in traces: room services have no id of their own.
func (s *settings) instance() string {
	host, _ := os.Hostname()
	return host + "/" + s.Listen
}

func main() {
	var s settings
	k := kong.Parse(&s, kong.Name("room"), kong.Description("Anteroom's room service."))
	ctx, stop := run.Signals(context.Background())
	defer stop()
	if s.Healthcheck != "" {
		k.FatalIfErrorf(run.HealthCheck(ctx, s.Healthcheck, s.AdminListen))
		return
	}
	k.FatalIfErrorf(s.serve(ctx))
}

func (s *settings) serve(ctx context.Context) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	logger, err := run.NewLogger(os.Stderr, s.LogLevel)
	if err != nil {
		return err
	}
	tracer, err := s.Tracing.Start("room", s.instance())
	if err != nil {
		return err
	}
	defer tracer.Close()
	rdb, err := roomlog.Connect(s.Redis)
	if err != nil {
		return fmt.Errorf("--redis: %w", err)
	}
	defer rdb.Close()
	layout := s.layout()
	agree := func(ctx context.Context) error { return roomlog.Agree(ctx, rdb, layout) }
	if err := run.Await(ctx, "Redis", agree); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", s.Listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	defer listener.Close()
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	registry := run.NewRegistry()
	admin, err := run.ListenAdmin(s.AdminListen, registry,
		run.Check{Name: "redis", Ready: func(ctx context.Context) error { return rdb.Ping(ctx).Err() }},
		run.Check{Name: "stop", Ready: func(context.Context) error { return ctx.Err() }})
	if err != nil {
		return fmt.Errorf("--admin-listen: %w", err)
	}
	admin.HandleDrain(leave)
	scripts := pipeline.New(rdb)
	defer scripts.Close() // after the calls, which send through it, have ended
	store, publisher := redisstore.New(rdb, scripts, layout), roomlog.NewPublisher(scripts, layout)
	server := rpc.NewServer(rpc.ServerConfig{Logger: logger, Metrics: registry, Stats: tracer.Server()})
	roomv1.RegisterRoomServiceServer(server, room.NewService(store, publisher))
	reflection.Register(server.Server) // only here: nobody can reach the room service of anteroom dev
	server.SetServing(true)

	logger.Info("room service is ready", "listen", listener.Addr().String(), "admin", admin.Addr(), "partitions", s.Partitions)
	group := run.Group{Logger: logger}
	group.Add("admin", admin.Run)
	group.Add("layout", func(ctx context.Context) error { return roomlog.Watch(ctx, rdb, layout) })
	group.Add("reaper", func(ctx context.Context) error { room.Reap(ctx, store); return nil })
	group.Add("grpc", func(ctx context.Context) error { return server.Run(ctx, listener) })
	return group.Run(ctx)
}
