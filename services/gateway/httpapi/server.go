package httpapi

import (
	"log/slog"
	"net/http"
	"time"
)

// How long a client may take. None of these limits applies to a WebSocket: its handshake ends
// them.
const (
	headerTimeout = 10 * time.Second
	readTimeout   = headerTimeout + RequestTimeout // headers and body, even if no handler reads the body
	writeTimeout  = 30 * time.Second               // from the end of the headers to the end of the answer
	idleTimeout   = 2 * time.Minute                // longer than the load balancer's, so that the load balancer closes first
)

// NewServer returns the gateway's http.Server. handler serves every path, /chat included.
// Requests to /v1 also have a deadline of their own.
func NewServer(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    12 << 10,                                             // net/http allows 4 KiB more
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug), // mostly peers that disconnect
	}
}
