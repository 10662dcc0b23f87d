// Package client talks to an Anteroom service: it reserves seats, joins rooms and
// keeps a member's view of a room unbroken.
//
// There are three levels:
//
//	Client   the HTTP calls: Identity, CreateRoom, Room, Rooms, Reserve, CancelPermit
//	Session  one WebSocket that joined a room (Client.Join): frames as they come
//	Member   a user in a room for as long as it takes (Client.Enter): comes back
//	         after a lost connection, each log entry once and in order, or a GAP;
//	         what is sent arrives once
//
// Errors. A refusal by the service is a *wire.Error, which errors.As and errors.Is find in
// every error of this package: inside a *StatusError for HTTP (with Retry-After), inside a
// *JoinError for a join (with the close code). The end of a connection is a *CloseError. Any
// other error, such as that of a failed dial, is the wrapped error of the transport: the
// service was not reached and has refused nothing.
//
// All times and delays come from package time, so that the client runs on the
// virtual clock of testing/synctest over connections that WithDialContext makes.
package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"
)

// Client makes the service's HTTP calls and opens its WebSockets. It may be used by
// many goroutines at once.
type Client struct {
	base   *url.URL
	http   *http.Client
	origin string
}

// DialContext opens a connection, as net.Dialer.DialContext does.
type DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

type settings struct {
	http   *http.Client
	dial   DialContext
	origin string
}

// Option changes how a Client connects.
type Option func(*settings)

// WithHTTPClient makes calls and WebSocket handshakes with h. The Timeout of h limits calls
// and handshakes, not the life of a WebSocket.
func WithHTTPClient(h *http.Client) Option { return func(s *settings) { s.http = h } }

// WithDialContext opens connections with dial and without any proxy, for in-memory
// connections or to reach a certain address. It excludes WithHTTPClient.
func WithDialContext(dial DialContext) Option { return func(s *settings) { s.dial = dial } }

// WithOrigin sends origin ("https://example.org") as the Origin header, as a browser would.
func WithOrigin(origin string) Option { return func(s *settings) { s.origin = origin } }

// New returns a Client of the service at baseURL, which has a scheme (http, https, ws or
// wss), a host and, if the service is below one, a path.
func New(baseURL string, opts ...Option) (*Client, error) {
	var s settings
	for _, opt := range opts {
		opt(&s)
	}
	if s.http != nil && s.dial != nil {
		return nil, errors.New("client: WithHTTPClient and WithDialContext exclude each other")
	}
	base, err := parseBase(baseURL)
	if err != nil {
		return nil, err
	}
	if s.http == nil {
		s.http = &http.Client{Transport: newTransport(s.dial)}
	}
	return &Client{base: base, http: s.http, origin: s.origin}, nil
}

func newTransport(dial DialContext) *http.Transport {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   64, // with the default of 2, a crowd of bots dials for every call
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   5 * time.Second,
		ExpectContinueTimeout: time.Second,
	}
	if dial != nil {
		t.Proxy, t.DialContext = nil, dial
	}
	return t
}

func parseBase(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("client: base URL: %w", err)
	}
	switch u.Scheme {
	case "ws":
		u.Scheme = "http"
	case "wss":
		u.Scheme = "https"
	case "http", "https":
	default:
		return nil, fmt.Errorf("client: base URL %q: the scheme is not http, https, ws or wss", s)
	}
	if u.Host == "" {
		return nil, fmt.Errorf("client: base URL %q has no host", s)
	}
	u.RawQuery, u.Fragment = "", ""
	return u, nil
}

// At returns a Client with the same connections and settings for another address, such as
// that of a certain gateway instead of the load balancer.
func (c *Client) At(baseURL string) (*Client, error) {
	base, err := parseBase(baseURL)
	if err != nil {
		return nil, err
	}
	other := *c
	other.base = base
	return &other, nil
}

// CloseIdleConnections closes connections that no call uses. Sessions stay open.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }
