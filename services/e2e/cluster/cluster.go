// Package cluster runs Anteroom as real processes on loopback, for tests: Redis
// with its append-only file, room services, gateways, and HAProxy with the
// configuration of deploy/haproxy. Each process can be stopped, killed, paused and
// started again by itself, at the same address.
//
//	c := cluster.Start(t, cluster.Options{})
//	c.Gateways[0].Kill()        // kill -9
//	c.Gateways[0].Start(ctx)    // returns once it is ready
//
// Everything is stopped when the test ends. If the test's process dies, the kernel kills
// the processes that are left (Linux only). If the test fails, the end of what each process
// wrote is logged.
package cluster

import (
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/redistest"
	"github.com/anteroom-chat/anteroom/pkg/roomlog"
)

// Options describes a cluster. The zero value describes that of `make cluster`.
type Options struct {
	Rooms    int      // room services; 0 means 2
	Gateways int      // 0 means 3
	Settings []string // of all processes but Redis, as in the environment: "WALK_IN=false"
	NoProxy  bool     // no HAProxy: users connect to the gateways
	// RedisOf returns the address at which a gateway, counted from 0, reaches the Redis that
	// listens at addr, for instance that of a proxy. nil means addr for all gateways.
	RedisOf func(gateway int, addr string) string
}

// Cluster is a running cluster. Many goroutines may use its processes at once.
type Cluster struct {
	Redis    *Process
	Rooms    []*Process
	Gateways []*Process
	Proxy    *Process // HAProxy; nil with NoProxy

	dir  string
	held []*port
}

// startTimeout bounds the start of all processes, which takes about a second on a
// machine that is not busy.
const startTimeout = 45 * time.Second

// Start starts a cluster and returns once a gateway can be reached through HAProxy. If a
// program that it needs is missing, the test fails: a skipped test would go unnoticed.
func Start(tb testing.TB, o Options) *Cluster {
	tb.Helper()
	began := time.Now()
	c, err := open(context.Background(), tb.TempDir(), o)
	tb.Cleanup(func() { c.end(tb) })
	if err != nil {
		tb.Fatal(err)
	}
	tb.Logf("cluster of %d room services and %d gateways is ready after %v",
		len(c.Rooms), len(c.Gateways), time.Since(began).Round(time.Millisecond))
	return c
}

// Open is Start outside a test: the cluster keeps its files in dir, and runs until Close.
func Open(ctx context.Context, dir string, o Options) (*Cluster, error) {
	c, err := open(ctx, dir, o)
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// open returns the cluster also if there is an error, as far as it has been started.
func open(ctx context.Context, dir string, o Options) (*Cluster, error) {
	if o.Rooms == 0 {
		o.Rooms = 2
	}
	if o.Gateways == 0 {
		o.Gateways = 3
	}
	c := &Cluster{dir: dir}
	if err := c.define(o); err != nil {
		return c, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return c, c.start(ctx)
}

// URL returns the base URL for users: that of HAProxy.
func (c *Cluster) URL() string { return c.Proxy.URL() }

// RedisURL returns the URL at which the room services and gateways find Redis.
func (c *Cluster) RedisURL() string { return "redis://" + c.Redis.Addr() + "/0" }

// RedisClient returns a client that connects directly to Redis, until the test ends.
func (c *Cluster) RedisClient(tb testing.TB) *redis.Client {
	tb.Helper()
	return redistest.Client(tb, c.RedisURL())
}

// Layout returns where in Redis rooms are.
func (c *Cluster) Layout() roomlog.Layout {
	return roomlog.Layout{Partitions: roomlog.DefaultPartitions}
}

// Client returns a client that connects through HAProxy, with connections of its own.
func (c *Cluster) Client(tb testing.TB) *client.Client {
	tb.Helper()
	made, err := client.New(c.URL())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(made.CloseIdleConnections)
	return made
}

// Processes returns all processes, in the order in which they start.
func (c *Cluster) Processes() []*Process {
	all := []*Process{c.Redis}
	all = append(all, c.Rooms...)
	all = append(all, c.Gateways...)
	if c.Proxy == nil {
		return all
	}
	return append(all, c.Proxy)
}

// define sets what each process runs, and the addresses, which belong to this cluster until
// it ends.
func (c *Cluster) define(o Options) error {
	bin, err := binaries()
	if err != nil {
		return err
	}
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	deploy := filepath.Join(filepath.Dir(root), "deploy")
	if err := c.defineRedis(filepath.Join(deploy, "redis")); err != nil {
		return err
	}
	settings := append([]string{"REDIS=" + c.RedisURL(), "IDENTITY_KEY=" + rand.Text() + rand.Text()}, o.Settings...)
	var targets []string
	for i := range o.Rooms {
		p, err := c.process(fmt.Sprintf("room%d", i+1), true)
		if err != nil {
			return err
		}
		p.argv = []string{filepath.Join(bin, "room"), "--listen=" + p.Addr(), "--admin-listen=" + p.AdminAddr()}
		p.env = settings
		p.ready = p.answers(p.AdminURL() + "/readyz")
		targets = append(targets, p.Addr())
		c.Rooms = append(c.Rooms, p)
	}
	settings = append(settings, "ROOMS="+strings.Join(targets, ","))
	for i := range o.Gateways {
		p, err := c.process(fmt.Sprintf("gateway%d", i+1), true)
		if err != nil {
			return err
		}
		p.argv = []string{filepath.Join(bin, "gateway"), "--gateway-id=" + p.Name,
			"--listen=" + p.Addr(), "--admin-listen=" + p.AdminAddr()}
		if o.RedisOf != nil {
			p.argv = append(p.argv, "--redis=redis://"+o.RedisOf(i, c.Redis.Addr())+"/0")
		}
		p.env = settings
		p.ready = p.answers(p.URL() + "/readyz")
		c.Gateways = append(c.Gateways, p)
	}
	if o.NoProxy {
		return nil
	}
	return c.defineProxy(filepath.Join(deploy, "haproxy", "local.cfg"), o.Settings)
}

// process makes a process with an address and, if admin is set, an admin address.
func (c *Cluster) process(name string, admin bool) (*Process, error) {
	p := &Process{Name: name, log: filepath.Join(c.dir, name+".log")}
	addrs := []*string{&p.addr}
	if admin {
		addrs = append(addrs, &p.admin)
	}
	for _, addr := range addrs {
		held, err := holdPort()
		if err != nil {
			return nil, fmt.Errorf("a port for %s: %w", name, err)
		}
		c.held = append(c.held, held)
		*addr = held.addr
	}
	return p, nil
}

// start starts the processes in steps: first Redis, then room services and gateways together,
// and last HAProxy.
func (c *Cluster) start(ctx context.Context) error {
	steps := [][]*Process{{c.Redis}, append(append([]*Process{}, c.Rooms...), c.Gateways...)}
	if c.Proxy != nil {
		steps = append(steps, []*Process{c.Proxy})
	}
	for _, together := range steps {
		errs := make(chan error, len(together))
		for _, p := range together {
			go func() { errs <- p.Start(ctx) }()
		}
		var failed error
		for range together {
			if err := <-errs; err != nil && failed == nil {
				failed = err
			}
		}
		if failed != nil {
			return failed
		}
	}
	return nil
}

// Close kills all processes.
func (c *Cluster) Close() {
	var all sync.WaitGroup
	for _, p := range c.Processes() {
		if p != nil {
			all.Go(func() { _ = p.Kill() })
		}
	}
	all.Wait()
	for _, held := range c.held {
		held.release()
	}
}

// end is Close, and logs what the processes wrote if the test has failed.
func (c *Cluster) end(tb testing.TB) {
	c.Close()
	if !tb.Failed() {
		return
	}
	for _, p := range c.Processes() {
		if p != nil {
			tb.Logf("the end of %s.log:\n%s", p.Name, p.LogTail(tailBytes))
		}
	}
}

// tailBytes is how much of each log is shown.
const tailBytes = 6 << 10
