package httpapi

import (
	"math"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// maxClients is how many addresses are remembered, which takes about 10 MB. The address that
// was seen longest ago is forgotten first, and would start with a full burst again.
const maxClients = 65_536

// RateLimit bounds the requests of each client address at this gateway: those to /v1,
// or those for a WebSocket.
type RateLimit struct {
	PerSecond float64 // 0: no limit
	Burst     int     // requests at once; default: PerSecond, rounded up
	// TrustProxy takes the client's address from the last entry of X-Forwarded-For, which the
	// proxy in front wrote. Without such a proxy, clients could claim any address.
	TrustProxy bool
}

// Wait returns a function that takes one request from its client's allowance. The function
// returns 0, or how long the client must wait if nothing is left. Wait returns nil if there is
// no limit.
func (l RateLimit) Wait() func(r *http.Request) time.Duration {
	if l.PerSecond <= 0 {
		return nil
	}
	if l.Burst <= 0 {
		l.Burst = max(1, int(math.Ceil(l.PerSecond)))
	}
	clients := newClients(l)
	return func(r *http.Request) time.Duration { return clients.take(l.clientOf(r)) }
}

func (l RateLimit) limit(next http.Handler) http.Handler {
	waitOf := l.Wait()
	if waitOf == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if wait := waitOf(r); wait > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
			writeProblem(w, problemOf(wire.Errorf(wire.RateLimited, "more than %g requests per second from your address", l.PerSecond)))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// clients holds a token bucket for each client address.
type clients struct {
	limit RateLimit

	mu      sync.Mutex // held while a bucket is found or made, so that an address has one
	buckets *lru.Cache[string, *rate.Limiter]
}

func newClients(l RateLimit) *clients {
	buckets, err := lru.New[string, *rate.Limiter](maxClients)
	if err != nil {
		panic("httpapi: " + err.Error()) // that happens only for a size below 1
	}
	return &clients{limit: l, buckets: buckets}
}

// take takes a token and returns 0, or returns how long it takes until there is one.
func (c *clients) take(client string) (wait time.Duration) {
	c.mu.Lock()
	bucket, ok := c.buckets.Get(client)
	if !ok {
		bucket = rate.NewLimiter(rate.Limit(c.limit.PerSecond), c.limit.Burst)
		c.buckets.Add(client, bucket)
	}
	c.mu.Unlock()
	now := time.Now()
	if bucket.AllowN(now, 1) {
		return 0
	}
	// Not ReserveN and CancelAt: if two requests are refused at once, a token is lost, and a flood
	// would lock its address out for minutes.
	missing := max(0, 1-bucket.TokensAt(now))
	return max(1, time.Duration(missing/c.limit.PerSecond*float64(time.Second)))
}

// clientOf returns which client sent r: its IPv4 address, or the /64 of its IPv6 address,
// since a single client can have a /64 all to itself.
func (l RateLimit) clientOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	if l.TrustProxy {
		forwarded := strings.Join(r.Header.Values("X-Forwarded-For"), ",")
		last := strings.TrimSpace(forwarded[strings.LastIndexByte(forwarded, ',')+1:])
		if at, err := netip.ParseAddrPort(last); err == nil { // some proxies add the port
			last = at.Addr().String()
		}
		if _, err := netip.ParseAddr(last); err == nil {
			host = last
		}
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if ip = ip.Unmap().WithZone(""); ip.Is6() {
		prefix, _ := ip.Prefix(64) // 64 fits
		return prefix.String()
	}
	return ip.String()
}
