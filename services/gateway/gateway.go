// Package gateway implements the WebSocket gateway. A gateway keeps no state that outlives it:
// it can be killed at any moment, and its members come back through another gateway.
//
// This is the life of a socket. One goroutine reads from it, or none while its member is quiet
// (see parking). Delivering to a socket never blocks.
//
//	upgrade ─▶ JOIN (frame or query) ─▶ follow the room's channel ─▶ ConfirmJoin
//	  ─▶ JOINED, what was missed ─▶ live entries, in order, each once
//	  ─▶ LEAVE, close, break, takeover, removal, deletion, drain, lost lease
//
// Limits of one socket: frames of 16 KiB, 20 messages/s with a burst of 40, 100 control frames
// and fragments/s with a burst of 50, 10 malformed frames, 256 KiB waiting to be sent (or four of
// the largest frames), 10 s to JOIN, 35 s of silence.
//
//	redis ──subscriber──▶ hub ──▶ shard (one goroutine) ──▶ localRoom ──▶ socket
//	socket ──▶ session ──▶ publisher ──▶ redis
//	session ──▶ room service: ConfirmJoin, Leave; keeper: RenewLeases in batches
package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/anteroom-chat/anteroom/pkg/pipeline"
	"github.com/anteroom-chat/anteroom/pkg/redisdb"
	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
	"github.com/anteroom-chat/anteroom/services/gateway/identity"
	"github.com/anteroom-chat/anteroom/services/gateway/origin"
)

// Config holds a gateway's dependencies and settings. The caller closes the dependencies.
type Config struct {
	ID         string // unique among gateways: 1 to 64 of A-Z a-z 0-9 _ -
	Redis      redisdb.Redis
	Layout     roomlog.Layout
	Rooms      roomv1.RoomServiceClient // its errors are *wire.Error (package rpc)
	Identities *identity.Signer
	Origins    *origin.Policy

	MaxFrameBytes int     // largest frame of a client; 0 means 16 KiB
	MessageRate   float64 // messages/s per session; 0 means no limit
	MessageBurst  int     // messages that a session may send at once
	FrameRate     float64 // PINGs, control frames, small fragments and refused messages/s per socket; 0 means no limit
	FrameBurst    int     // how many of these may come at once
	MaxSockets    int     // sockets open at once; 0 means no limit
	WalkIn        bool    // a join without a permit may take a free seat

	// QuietAfter is how long a member who has sent something keeps a goroutine; 0 means 15 s.
	QuietAfter time.Duration

	// Wait returns how long the client that sent r must wait before it may open another socket, or
	// 0 if it need not wait. If Wait is nil, no client has to wait.
	Wait func(r *http.Request) time.Duration

	// Refuse responds to a request that is not upgraded, in the way the HTTP API responds to a
	// request that fails. Required.
	Refuse func(w http.ResponseWriter, err *wire.Error)

	Registry *metrics.Set // nil: no metrics

	// Trace begins a span of a trace, as tracing.Tracer.Begin does. If it is nil, nothing is traced.
	Trace func(ctx context.Context, name string) (_ context.Context, end func(result string, failed bool))
}

// Gateway serves /chat.
type Gateway struct {
	cfg        Config
	hub        *hub
	keeper     *keeper
	parking    parking
	scripts    *pipeline.Runner
	publisher  *roomlog.Publisher
	metrics    *gatewayMetrics
	stop       context.CancelFunc
	draining   atomic.Bool    // no longer ready
	moving     atomic.Bool    // members are being moved away: new joins are turned away
	background sync.WaitGroup // the hub, the keeper, and work of a session that must not block it or may outlive it
	leaveSlots semaphore      // limits how many failed leaves are retried at a time

	mu      sync.Mutex // guards closed and open: no socket starts once closed is set
	closed  bool
	open    int            // number of sockets
	sockets sync.WaitGroup // the sockets, and the goroutines that write to them
}

// New starts a gateway. Close stops it.
func New(cfg Config) (*Gateway, error) {
	if err := wire.CheckID("gateway id", cfg.ID); err != nil {
		return nil, err
	}
	if err := cfg.Layout.Check(); err != nil {
		return nil, err
	}
	if cfg.Refuse == nil {
		return nil, errors.New("nothing answers requests that are not upgraded")
	}
	if cfg.MaxFrameBytes == 0 {
		cfg.MaxFrameBytes = wire.DefaultFrameBytes
	}
	if cfg.QuietAfter == 0 {
		cfg.QuietAfter = defaultQuiet
	}
	if cfg.Trace == nil {
		cfg.Trace = untraced
	}
	if cfg.MaxFrameBytes < 256 || cfg.MaxFrameBytes > 1<<20 {
		return nil, fmt.Errorf("max frame bytes is %d, outside 256 to 1048576", cfg.MaxFrameBytes)
	}
	if cfg.MessageRate < 0 || (cfg.MessageRate > 0 && cfg.MessageBurst < 1) {
		return nil, errors.New("message rate is negative, or its burst is less than 1")
	}
	if cfg.FrameRate < 0 || (cfg.FrameRate > 0 && cfg.FrameBurst < 1) {
		return nil, errors.New("frame rate is negative, or its burst is less than 1")
	}
	if cfg.MaxSockets < 0 {
		return nil, errors.New("the number of sockets is negative")
	}
	ctx, stop := context.WithCancel(context.Background())
	g := &Gateway{cfg: cfg, metrics: newMetrics(cfg.Registry), stop: stop, leaveSlots: make(semaphore, maxLeaves)}
	g.hub = newHub(ctx, cfg, g.metrics)
	g.keeper = newKeeper(g)
	g.hub.noticesLost = g.keeper.kick
	g.scripts = pipeline.New(cfg.Redis)
	g.publisher = roomlog.NewPublisher(g.scripts, cfg.Layout)
	g.background.Go(g.hub.serve)
	g.background.Go(func() { g.keeper.serve(ctx) })
	return g, nil
}

func untraced(ctx context.Context, _ string) (context.Context, func(string, bool)) {
	return ctx, func(string, bool) {}
}

// Close closes every remaining socket and then stops what served them, senders before
// receivers. To move the members to other gateways first, call Drain before Close.
func (g *Gateway) Close() {
	g.draining.Store(true)
	g.moving.Store(true)
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	for _, s := range g.keeper.all() {
		s.close(wire.CloseRestart)
	}
	parting, cancel := context.WithTimeout(context.Background(), partingTime)
	g.emptied(parting)
	cancel()
	for _, s := range g.keeper.all() {
		s.sock.abort()
	}
	g.sockets.Wait()
	g.scripts.Close()
	g.stop()
	g.parking.close()
	g.background.Wait()
}

// pause waits for d. It reports false if ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
