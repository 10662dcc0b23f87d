package httpapi

import (
	"log/slog"
	"net/http"
	"time"
)

// How long a client may take. None of these holds for a WebSocket: its handshake ends
// them.
const (
	headerTimeout = 10 * time.Second
	readTimeout   = headerTimeout + RequestTimeout // headers and body, also where nobody reads the body
	writeTimeout  = 30 * time.Second               // from the end of the headers to the end of the answer
	idleTimeout   = 2 * time.Minute                // above the load balancer's, so that it closes first
)

// NewServer makes the gateway's http.Server around the handler of every path, /chat
// included. Requests of /v1 have their own deadline besides.
func NewServer(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    12 << 10,                                             // net/http allows 4 KiB more
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug), // peers that break off
	}
}
