package rpc

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/roundrobin"
)

// balancerName is gRPC's round robin, which leaves out servers that hang: they stay
// connected until their keepalive fails 20 s later, and would be every second server
// that is asked until then, and as often the one asked in another's place.
const balancerName = "anteroom_round_robin"

// hangPause is how long a server that hung is asked for nothing while there are others.
// Then one call tries it.
const hangPause = 5 * time.Second

func init() { balancer.Register(balancerBuilder{}) }

type balancerBuilder struct{}

func (balancerBuilder) Name() string { return balancerName }

func (balancerBuilder) Build(cc balancer.ClientConn, options balancer.BuildOptions) balancer.Balancer {
	watched := &watchedConn{cc, &hangs{until: make(map[balancer.SubConn]time.Time)}}
	return balancer.Get(roundrobin.Name).Build(watched, options)
}

// watchedConn puts our picker in front of the balancer's.
type watchedConn struct {
	balancer.ClientConn
	hangs *hangs
}

func (c *watchedConn) UpdateState(s balancer.State) {
	s.Picker = picker{s.Picker, c.hangs}
	c.ClientConn.UpdateState(s)
}

type picker struct {
	balancer.Picker
	hangs *hangs
}

// mostServers is how many servers a pick passes over at most. One more than that is prime,
// and so is hardly a multiple of how many there are: where all hang, each has its turn.
const mostServers = 66

// Pick takes the first server that does not hang. Since others pick from the same round at
// the same time, a server may come twice before all were seen: after mostServers it takes the
// first one, hanging or not.
func (p picker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	a, tries := info.Ctx.Value(attemptKey{}).(*attempt)
	first, err := p.Picker.Pick(info)
	result := first
	for n := 0; err == nil && p.hangs.avoids(result.SubConn, tries); n++ {
		if n == mostServers {
			result = first
			break
		}
		result, err = p.Picker.Pick(info)
	}
	if tries && err == nil {
		a.server, a.hangs = result.SubConn, p.hangs
	}
	return result, err
}

// hangs are the servers of a connection that hung lately.
type hangs struct {
	mu    sync.Mutex
	until map[balancer.SubConn]time.Time // when to try one again
}

// avoids reports whether to pass a server over. A call that tries gets one whose time to be
// tried again has come: what comes of that is noted.
func (h *hangs) avoids(server balancer.SubConn, tries bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	until, hung := h.until[server]
	switch {
	case !hung:
		return false
	case !tries || time.Now().Before(until):
		return true
	}
	h.until[server] = time.Now().Add(attemptTimeout) // the others wait for what comes of it
	return false
}

// attempt is one try of a call: which server it went to.
type attempt struct {
	server balancer.SubConn // nil where it came to none
	hangs  *hangs
}

type attemptKey struct{}

func withAttempt(ctx context.Context) (context.Context, *attempt) {
	a := new(attempt)
	return context.WithValue(ctx, attemptKey{}, a), a
}

// ended notes whether the server hung, or answered: else nothing is known of it.
func (a *attempt) ended(hung, answered bool) {
	if a.server == nil || !hung && !answered {
		return
	}
	a.hangs.mu.Lock()
	defer a.hangs.mu.Unlock()
	if !hung {
		delete(a.hangs.until, a.server)
		return
	}
	now := time.Now()
	for server, until := range a.hangs.until { // which may be gone for good
		if now.Sub(until) > time.Minute {
			delete(a.hangs.until, server)
		}
	}
	a.hangs.until[a.server] = now.Add(hangPause)
}
