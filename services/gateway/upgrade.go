package gateway

import (
	"context"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/coder/websocket"
)

// ServeHTTP upgrades a request of /chat to a WebSocket.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if no := g.admit(r); no != nil {
		g.metrics.refusals.With(no.reason).Inc()
		no.answer(w)
		return
	}
	s := &session{g: g, meter: newMeter(g.cfg.FrameRate, g.cfg.FrameBurst)}
	s.meter.excess = s.flooding
	h := &hijacker{ResponseWriter: w, ended: &g.sockets, meter: s.meter}
	ws, err := websocket.Accept(h, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // the origin was checked above
		OnPingReceived:     func(context.Context, []byte) bool { s.hearControl(); return true },
		OnPongReceived:     func(context.Context, []byte) { s.hearControl() },
	})
	if err != nil {
		g.ended()
		return // it has answered
	}
	ws.SetReadLimit(-1) // the session limits what it reads
	s.ws, s.sock = ws, h.socket
	s.init(joinOf(r))
	s.run() // on the server's goroutine, whose stack has grown already
}

// refusal is why a request is not upgraded.
type refusal struct {
	reason string // the metric's label
	status int
	retry  time.Duration // after which it may work; 0: never
	detail string
}

// admit counts a socket, unless there can be none.
func (g *Gateway) admit(r *http.Request) *refusal {
	if !g.cfg.Origins.Allows(r) {
		return &refusal{"origin", http.StatusForbidden, 0, "this origin may not open a WebSocket here"}
	}
	if g.cfg.Wait != nil {
		if wait := g.cfg.Wait(r); wait > 0 {
			return &refusal{"rate", http.StatusTooManyRequests, wait, "too many WebSockets from your address"}
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return &refusal{"stopping", http.StatusServiceUnavailable, time.Second, "this gateway is going away"}
	case g.cfg.MaxSockets > 0 && g.open >= g.cfg.MaxSockets:
		return &refusal{"full", http.StatusServiceUnavailable, time.Second, "this gateway has as many WebSockets as it may"}
	}
	g.open++
	g.sockets.Add(1)
	return nil
}

// ended counts a socket off.
func (g *Gateway) ended() {
	g.mu.Lock()
	g.open--
	g.mu.Unlock()
	g.sockets.Done()
}

func (no *refusal) answer(w http.ResponseWriter) {
	if no.retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(no.retry.Seconds()))))
	}
	http.Error(w, no.detail, no.status)
}
