// Command gateway is the WebSocket gateway with /v1 and the demo page. It holds
// nothing that matters: any number of instances run side by side.
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/rpc"
	"github.com/anteroom-chat/anteroom/pkg/run"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/gateway"
	"github.com/anteroom-chat/anteroom/services/gateway/httpapi"
	"github.com/anteroom-chat/anteroom/services/gateway/identity"
	"github.com/anteroom-chat/anteroom/services/gateway/origin"
	"github.com/anteroom-chat/anteroom/services/gateway/server"
)

// settings are flags, and environment variables of the same name.
type settings struct {
	Listen         string        `help:"Address of the page, HTTP and WebSocket." default:"127.0.0.1:8080" env:"LISTEN"`
	AdminListen    string        `help:"Address of metrics, health and pprof." default:"127.0.0.1:9181" env:"ADMIN_LISTEN"`
	Redis          string        `help:"URL of Redis, redis:// or rediss://." default:"redis://127.0.0.1:6379/0" env:"REDIS"`
	Rooms          string        `help:"The room services: a gRPC target, or HOST:PORT,HOST:PORT." default:"dns:///127.0.0.1:50051" env:"ROOMS"`
	IdentityKey    string        `help:"Key that signs identities (HS256), at least 32 bytes, the same for every gateway. Required." env:"IDENTITY_KEY"`
	IdentityTTL    time.Duration `help:"How long an anonymous identity lives." default:"24h" env:"IDENTITY_TTL"`
	AllowedOrigins string        `help:"Browser origins besides the page's own host: host patterns or whole origins, comma-separated; * allows all." placeholder:"app.example.com,*.example.org" env:"ALLOWED_ORIGINS"`
	MaxFrameBytes  int           `help:"Largest frame of a client, in bytes, 256 to 1048576." default:"16384" env:"MAX_FRAME_BYTES"`
	MessageRate    float64       `help:"Messages per second that a session may sustain; 0 is no limit." default:"20" env:"MESSAGE_RATE"`
	MessageBurst   int           `help:"Messages that a session may send at once." default:"40" env:"MESSAGE_BURST"`
	WalkIn         bool          `help:"Let a join without a permit take a free seat; on by default." default:"true" negatable:"" env:"WALK_IN"`
	GatewayID      string        `help:"Unique name among the gateways, 1 to 64 of A-Z a-z 0-9 _ -. Made at start when empty." env:"GATEWAY_ID"`
	DrainTimeout   time.Duration `help:"How long a stop waits for members to move to other gateways, 0s to 30s." default:"30s" env:"DRAIN_TIMEOUT"`
	HTTPRate       float64       `name:"http-rate" help:"Requests to /v1 per second that a client address may sustain; 0 is no limit." default:"0" env:"HTTP_RATE"`
	HTTPBurst      int           `name:"http-burst" help:"Requests to /v1 that a client address may send at once; 0 is --http-rate, rounded up." default:"0" env:"HTTP_BURST"`
	TrustProxy     bool          `help:"Take client addresses from X-Forwarded-For, as the proxy in front writes it." env:"TRUST_PROXY"`
	Partitions     int           `help:"Number of partitions that rooms hash to; all processes must agree." default:"64" env:"PARTITIONS"`
	LogLevel       string        `help:"debug, info, warn or error." enum:"debug,info,warn,error" default:"info" env:"LOG_LEVEL"`
	Healthcheck    bool          `help:"Ask the process at --admin-listen whether it is ready, and exit with 0 or 1."`
}

// Validate is called by kong, before anything is waited for.
func (s *settings) Validate() error {
	if s.GatewayID == "" {
		s.GatewayID = "gw-" + strings.ToLower(rand.Text()[:12])
	}
	switch {
	case s.Partitions < 1 || s.Partitions > 4096:
		return fmt.Errorf("--partitions is %d, outside 1 to 4096", s.Partitions)
	case s.MaxFrameBytes < 256 || s.MaxFrameBytes > 1<<20:
		return fmt.Errorf("--max-frame-bytes is %d, outside 256 to 1048576", s.MaxFrameBytes)
	case s.MessageRate < 0 || s.MessageRate > 0 && s.MessageBurst < 1:
		return fmt.Errorf("--message-rate is negative, or --message-burst below 1")
	case s.DrainTimeout < 0 || s.DrainTimeout > 30*time.Second:
		return fmt.Errorf("--drain-timeout is %v, outside 0s to 30s", s.DrainTimeout)
	case s.HTTPRate < 0 || s.HTTPBurst < 0:
		return fmt.Errorf("--http-rate and --http-burst cannot be negative")
	}
	return nil
}

func main() {
	var s settings
	k := kong.Parse(&s, kong.Name("gateway"), kong.Description("Anteroom's WebSocket gateway."))
	ctx, stop := run.Signals(context.Background())
	defer stop()
	if s.Healthcheck {
		k.FatalIfErrorf(run.HealthCheck(ctx, s.AdminListen))
		return
	}
	k.FatalIfErrorf(s.serve(ctx))
}

// gateway translates the settings; Redis and metrics are the caller's to add.
func (s *settings) gateway() (gateway.Config, error) {
	signer, err := identity.NewSigner([]byte(s.IdentityKey), s.IdentityTTL)
	if err != nil {
		return gateway.Config{}, fmt.Errorf("--identity-key: %w", err)
	}
	origins, err := origin.Parse(s.AllowedOrigins)
	if err != nil {
		return gateway.Config{}, err
	}
	return gateway.Config{
		ID: s.GatewayID, Layout: roomlog.Layout{Partitions: s.Partitions}, Identities: signer, Origins: origins,
		MaxFrameBytes: s.MaxFrameBytes, MessageRate: s.MessageRate, MessageBurst: s.MessageBurst, WalkIn: s.WalkIn,
	}, wire.CheckID("--gateway-id", s.GatewayID)
}

func (s *settings) serve(ctx context.Context) error {
	cfg, err := s.gateway()
	if err != nil {
		return err
	}
	logger, err := run.NewLogger(os.Stderr, s.LogLevel)
	if err != nil {
		return err
	}
	registry := run.NewRegistry()
	cfg.Registry = registry
	conn, err := rpc.Dial(s.Rooms, rpc.ClientConfig{Metrics: registry})
	if err != nil {
		return fmt.Errorf("--rooms: %w", err)
	}
	defer conn.Close()
	if cfg.Redis, err = roomlog.Connect(s.Redis); err != nil {
		return err
	}
	defer cfg.Redis.Close()
	agree := func(ctx context.Context) error { return roomlog.Agree(ctx, cfg.Redis, cfg.Layout) }
	if err := run.Await(ctx, "Redis", agree); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", s.Listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	gw, err := server.New(server.Config{
		Gateway: cfg, RoomsConn: conn, DrainTimeout: s.DrainTimeout,
		Rate: httpapi.RateLimit{PerSecond: s.HTTPRate, Burst: s.HTTPBurst, TrustProxy: s.TrustProxy},
	})
	if err != nil {
		return err
	}
	admin, err := run.ListenAdmin(s.AdminListen, registry, run.Check{Name: "gateway", Ready: gw.Ready})
	if err != nil {
		return err
	}
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	admin.Handle("POST /drain", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		leave() // the same as SIGTERM
	})
	logger.Info("gateway is ready", "listen", listener.Addr().String(), "admin", admin.Addr(), "gateway_id", s.GatewayID)
	group := run.Group{Logger: logger}
	group.Add("admin", admin.Run)
	group.Add("gateway", func(ctx context.Context) error { return gw.Run(ctx, listener) })
	return group.Run(ctx)
}
