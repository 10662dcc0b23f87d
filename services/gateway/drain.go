package gateway

import (
	"context"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

const (
	drainNoticed   = 2500 * time.Millisecond // two health checks of HAProxy, and some slack
	drainPerSecond = 1_000                   // members asked to move in a second
	drainMost      = 15 * time.Second        // in which all members are asked, however many there are
	drainGrace     = 2 * time.Second         // for a member to move before its socket is closed
	partingTime    = time.Second             // for peers to answer the last close frames
)

// Retire makes this gateway not ready, so that the load balancer sends it no new clients.
// Nothing else changes yet. Drain begins with this too.
func (g *Gateway) Retire() { g.draining.Store(true) }

// Draining reports whether this gateway is going away and so is not ready any more.
func (g *Gateway) Draining() bool { return g.draining.Load() }

// Drain moves the members away. It makes this gateway not ready at once, but goes on serving
// until the load balancer has seen that, which would otherwise send moving members back here.
// Then it sends each member DRAINING with a delay of its own, so that the other gateways get
// an even stream of joins, and closes it with 1012 a little later. Seats are kept. Drain
// returns when no socket is left or ctx ends.
func (g *Gateway) Drain(ctx context.Context) {
	g.Retire()
	if !pause(ctx, drainNotice(ctx)) {
		return
	}
	g.moving.Store(true)
	sessions := g.keeper.all()
	spread := drainSpread(ctx, len(sessions))
	for i, s := range sessions {
		delay := spread * time.Duration(i) / time.Duration(len(sessions))
		s.send(appendFrame(nil, wire.DrainingFrame(delay)))
		time.AfterFunc(delay+drainGrace, func() { s.close(wire.CloseRestart) })
	}
	g.emptied(ctx)
}

// emptied returns when no socket is left, or ctx ends.
func (g *Gateway) emptied(ctx context.Context) {
	gone := time.NewTicker(10 * time.Millisecond)
	defer gone.Stop()
	for g.keeper.count() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-gone.C:
		}
	}
}

// drainNotice returns how long the load balancer has to notice, within ctx's deadline.
func drainNotice(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(drainNoticed, time.Until(deadline)/10)
	}
	return drainNoticed
}

// drainSpread returns the time over which that many sessions move, within ctx's deadline.
func drainSpread(ctx context.Context, sessions int) time.Duration {
	spread := min(time.Duration(sessions)*time.Second/drainPerSecond, drainMost)
	if deadline, ok := ctx.Deadline(); ok {
		spread = min(spread, time.Until(deadline)-2*drainGrace)
	}
	return max(spread, 0)
}
