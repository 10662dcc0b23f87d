package rpc

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/resolver"
)

const (
	// lookupEvery is how often DNS is asked for the servers, whether or not the last lookup
	// succeeded.
	lookupEvery   = 2 * time.Second
	lookupTimeout = 5 * time.Second
)

// dnsBuilder replaces gRPC's own resolver for dns:///host:port and dns://server/host:port.
// gRPC's resolver asks only when a connection breaks, at the earliest 30 s after the last
// lookup, and waits up to 2 minutes after a failure. Servers that are added would never be
// called. If all servers were replaced one after the other at new addresses, none would be
// known for half a minute, which is longer than a lease.
type dnsBuilder struct {
	lookup func(ctx context.Context, host string) ([]string, error) // nil means DNS
}

func (dnsBuilder) Scheme() string { return "dns" }

func (b dnsBuilder) Build(target resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	host, port, err := hostPort(target.Endpoint())
	if err != nil {
		return nil, err // does not happen: Dial has checked it
	}
	lookup := b.lookup
	if lookup == nil {
		lookup = resolverAt(target.URL.Host).LookupHost // also accepts IP addresses
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &dnsResolver{host: host, port: port, lookup: lookup, cc: cc, cancel: cancel}
	r.ended.Go(func() { r.watch(ctx) })
	return r, nil
}

// resolverAt returns a resolver that asks the given DNS server, or the system's servers if
// server is empty.
func resolverAt(server string) *net.Resolver {
	if server == "" {
		return net.DefaultResolver
	}
	if _, _, err := net.SplitHostPort(server); err != nil {
		server = net.JoinHostPort(strings.Trim(server, "[]"), "53")
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server)
	}}
}

type dnsResolver struct {
	host, port string
	lookup     func(ctx context.Context, host string) ([]string, error)
	cc         resolver.ClientConn
	cancel     context.CancelFunc
	ended      sync.WaitGroup
}

// watch reports every change to the connection.
func (r *dnsResolver) watch(ctx context.Context) {
	tick := time.NewTicker(lookupEvery)
	defer tick.Stop()
	var known []string
	for {
		hosts, err := r.ask(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			r.cc.ReportError(err) // the known addresses stay in use
		case !slices.Equal(hosts, known):
			known = hosts
			_ = r.cc.UpdateState(r.state(hosts)) // fails only without addresses
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (r *dnsResolver) ask(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	hosts, err := r.lookup(ctx, r.host)
	if err == nil && len(hosts) == 0 {
		err = fmt.Errorf("DNS has no address of %s", r.host)
	}
	slices.Sort(hosts)
	return slices.Compact(hosts), err
}

func (r *dnsResolver) state(hosts []string) resolver.State {
	var state resolver.State
	for _, host := range hosts {
		address := resolver.Address{Addr: net.JoinHostPort(host, r.port)}
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{address}})
	}
	return state
}

// ResolveNow is called when a connection breaks. It does nothing, since the next tick is soon
// enough.
func (r *dnsResolver) ResolveNow(resolver.ResolveNowOptions) {}

func (r *dnsResolver) Close() {
	r.cancel()
	r.ended.Wait()
}
