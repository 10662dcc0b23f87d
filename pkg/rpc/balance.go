package rpc

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/roundrobin"
)

// balancerName names gRPC's round robin without the servers that hang. A server that hangs
// stays connected until its keepalive fails 20 s later. With two servers, half of all calls
// would go to it until then, and half of all second attempts too.
const balancerName = "anteroom_round_robin"

// hangPause is how long a server that hung gets no calls while there are other servers. Then
// one call tries it.
const hangPause = 5 * time.Second

func init() { balancer.Register(balancerBuilder{}) }

type balancerBuilder struct{}

func (balancerBuilder) Name() string { return balancerName }

func (balancerBuilder) Build(cc balancer.ClientConn, options balancer.BuildOptions) balancer.Balancer {
	watched := &watchedConn{cc, &hangs{until: make(map[balancer.SubConn]time.Time)}}
	return balancer.Get(roundrobin.Name).Build(watched, options)
}

// watchedConn wraps the picker of the round robin with ours.
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

// mostServers is how many servers a pick skips at most. mostServers+1 is prime and thus
// hardly ever a multiple of the number of servers, so if all servers hang, each gets its
// turn.
const mostServers = 66

// Pick picks the first server that does not hang. Other calls pick from the same round at the
// same time, so a server may come up twice before all have been seen. After mostServers, Pick
// takes the first one, whether it hangs or not.
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

// hangs records the servers of a connection that hung lately.
type hangs struct {
	mu    sync.Mutex
	until map[balancer.SubConn]time.Time // when to try the server again
}

// avoids reports whether to skip a server. If tries is set, the outcome of the call will be
// recorded. Such a call gets a server whose time to be tried again has come.
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
	h.until[server] = time.Now().Add(attemptTimeout) // other calls wait for the outcome
	return false
}

// attempt is one attempt of a call, with the server that it was sent to.
type attempt struct {
	server balancer.SubConn // nil if it was sent to none
	hangs  *hangs
}

type attemptKey struct{}

func withAttempt(ctx context.Context) (context.Context, *attempt) {
	a := new(attempt)
	return context.WithValue(ctx, attemptKey{}, a), a
}

// ended records whether the server hung or answered. If it did neither, nothing is known
// about it.
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
	for server, until := range a.hangs.until { // forget servers that may be gone for good
		if now.Sub(until) > time.Minute {
			delete(a.hangs.until, server)
		}
	}
	a.hangs.until[a.server] = now.Add(hangPause)
}
