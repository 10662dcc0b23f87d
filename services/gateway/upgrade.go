package gateway

import (
	"context"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/coder/websocket"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// ServeHTTP upgrades a request of /chat to a WebSocket.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if no := g.admit(r); no != nil {
		g.metrics.refusals.With(no.reason).Inc()
		if no.retry > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(no.retry.Seconds()))))
		}
		g.cfg.Refuse(w, no.err)
		return
	}
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
	}
	s := &session{g: g, in: incoming{meter: newMeter(g.cfg.FrameRate, g.cfg.FrameBurst)}}
	s.in.meter.excess = s.flooding
	ws, err := websocket.Accept(&hijacker{w, s}, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // the origin was checked above
		OnPingReceived:     func(context.Context, []byte) bool { s.hearControl(); return true },
		OnPongReceived:     func(context.Context, []byte) { s.hearControl() },
	})
	if err != nil {
		g.ended()
		return // Accept has sent the response
	}
	ws.SetReadLimit(-1) // the session limits what it reads
	s.ws = ws
	s.init()
	s.run(joinOf(r)) // on the server's goroutine, whose stack has grown already
}

// refusal is why a request is not upgraded.
type refusal struct {
	reason string // the metric's label
	err    *wire.Error
	retry  time.Duration // after how long to try again; 0: as usual for the code
}

// errMoving refuses a client that has to go to another gateway.
var errMoving = wire.Errorf(wire.Unavailable, "this gateway is going away")

// admit counts a new socket, or says why there can be none.
func (g *Gateway) admit(r *http.Request) *refusal {
	if !g.cfg.Origins.Allows(r) {
		return &refusal{refusalOrigin, wire.Errorf(wire.Forbidden, "this origin may not open a WebSocket here"), 0}
	}
	if g.cfg.Wait != nil {
		if wait := g.cfg.Wait(r); wait > 0 {
			return &refusal{refusalRate, wire.Errorf(wire.RateLimited, "too many WebSockets from your address"), wait}
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return &refusal{refusalStopping, errMoving, 0}
	case g.cfg.MaxSockets > 0 && g.open >= g.cfg.MaxSockets:
		return &refusal{refusalFull, wire.Errorf(wire.Unavailable, "this gateway has as many WebSockets as it may"), 0}
	}
	g.open++
	g.sockets.Add(1)
	return nil
}

// ended uncounts a socket.
func (g *Gateway) ended() {
	g.mu.Lock()
	g.open--
	g.mu.Unlock()
	g.sockets.Done()
}
