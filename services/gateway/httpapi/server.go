package httpapi

import (
	"log/slog"
	"net/http"
	"time"
)

// NewServer makes the gateway's http.Server around the handler of every path,
// /chat included: so it bounds headers, but has no timeout that would end a
// WebSocket. Requests of /v1 have their own deadline.
func NewServer(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute, // above the load balancer's, so that it closes first
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug), // peers that break off
	}
}
