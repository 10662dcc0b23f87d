package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/memnet"
	"github.com/anteroom-chat/anteroom/pkg/pipeline"
	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/rpc"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
	"github.com/anteroom-chat/anteroom/services/gateway"
	"github.com/anteroom-chat/anteroom/services/gateway/httpapi"
	"github.com/anteroom-chat/anteroom/services/gateway/identity"
	"github.com/anteroom-chat/anteroom/services/gateway/origin"
	"github.com/anteroom-chat/anteroom/services/room"
	"github.com/anteroom-chat/anteroom/services/room/redisstore"
)

// cluster is a whole Anteroom in this process: Redis, room services and gateways, connected
// over memnet as they are over TCP in production. Browsers connect over TCP. In virtual time
// (synctest) they connect over memnet too.
//
// Names on the network: "redis", "rooms-1" …, "gateway-1" …; browsers are "browser".
type cluster struct {
	t      testing.TB
	net    *memnet.Network
	redis  *miniredis.Miniredis
	layout roomlog.Layout
	signer *identity.Signer
	rooms  []*roomsNode
	nodes  []*node
	api    roomv1.RoomServiceClient // as other services of the company use it
	rdb    *redis.Client            // the test's own client
	tcp    bool
}

// roomsNode is one room service with its reaper.
type roomsNode struct {
	name string
	stop func() // returns once everything has ended
}

// node is one gateway with its public port.
type node struct {
	*gateway.Gateway
	c    *cluster
	name string
	url  string // http://host
	stop func() // ends it as kill -9 would, as the others see it; returns once everything has ended
}

// shape says what a cluster is made of; the zero value is one of each.
type shape struct {
	rooms     int
	gateways  int
	rules     room.Rules // zero means the contract's rules
	configure func(*gateway.Config)
}

var signingKey = []byte("a key of thirty-two bytes, or more")

func init() {
	// What goes wrong on purpose must not fill the logs.
	if os.Getenv("TEST_LOG") == "" {
		slog.SetDefault(slog.New(slog.DiscardHandler))
	}
}

// overTCP starts a cluster whose browsers come over TCP.
func overTCP(t *testing.T, s shape) *cluster {
	t.Helper()
	t.Parallel()
	return start(t, s, true)
}

// virtual runs a test on a cluster in virtual time.
func virtual(t *testing.T, s shape, test func(t *testing.T, c *cluster)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { test(t, start(t, s, false)) })
}

// both runs a test on real sockets and in virtual time.
func both(t *testing.T, s shape, test func(t *testing.T, c *cluster)) {
	t.Helper()
	t.Parallel()
	t.Run("tcp", func(t *testing.T) { t.Parallel(); test(t, start(t, s, true)) })
	t.Run("virtual", func(t *testing.T) { virtual(t, s, test) })
}

func start(t testing.TB, s shape, tcp bool) *cluster {
	t.Helper()
	signer, err := identity.NewSigner(signingKey, time.Hour)
	must(t, err)
	c := &cluster{
		t: t, net: memnet.New(), redis: miniredis.NewMiniRedis(), signer: signer, tcp: tcp,
		layout: roomlog.Layout{Partitions: 4},
	}
	c.redis.ClockTTL(true)
	c.startRedis()
	c.rdb = c.connectRedis("test")
	for range max(s.rooms, 1) {
		c.startRooms(s.rules)
	}
	conn := c.dialRooms("test")
	c.api = roomv1.NewRoomServiceClient(conn)
	for range max(s.gateways, 1) {
		c.startGateway(s.configure)
	}
	// Cleanups run last to first: gateways, room services, Redis.
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// startRedis makes the embedded store serve whatever dials "redis". Two goroutines copy each
// connection to one of the store's own. So when a link fails, that is a failure of the
// network, and the store goes on.
func (c *cluster) startRedis() {
	l, err := c.net.Listen("redis")
	must(c.t, err)
	var pumps sync.WaitGroup
	pumps.Go(func() {
		for {
			outside, err := l.Accept()
			if err != nil {
				return
			}
			inside, err := c.redis.Dial()
			if err != nil {
				_ = outside.Close()
				continue
			}
			pump := func(dst, src net.Conn) {
				_, _ = io.Copy(dst, src)
				_ = dst.Close()
				_ = src.Close()
			}
			pumps.Go(func() { pump(inside, outside) })
			pumps.Go(func() { pump(outside, inside) })
		}
	})
	c.t.Cleanup(func() {
		_ = l.Close()
		c.redis.Close()
		pumps.Wait()
	})
}

// connectRedis returns a client like that of the processes.
func (c *cluster) connectRedis(from string) *redis.Client {
	rdb := redis.NewClient(roomlog.Tune(&redis.Options{
		Addr: "redis", PoolSize: 8,
		Dialer: func(ctx context.Context, _, addr string) (net.Conn, error) { return c.net.Dial(ctx, from, addr) },
	}))
	c.t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// dialRooms connects to every room service that is running.
func (c *cluster) dialRooms(from string) *grpc.ClientConn {
	target := ""
	for i, r := range c.rooms {
		if i > 0 {
			target += ","
		}
		target += r.name + ":1"
	}
	conn, err := rpc.Dial(target, rpc.ClientConfig{
		Dialer: func(ctx context.Context, addr string) (net.Conn, error) {
			host, _, _ := net.SplitHostPort(addr)
			return c.net.Dial(ctx, from, host)
		},
	})
	must(c.t, err)
	c.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (c *cluster) startRooms(rules room.Rules) *roomsNode {
	if rules == (room.Rules{}) {
		rules = room.DefaultRules()
	}
	r := &roomsNode{name: fmt.Sprintf("rooms-%d", len(c.rooms)+1)}
	rdb := c.connectRedis(r.name)
	scripts := pipeline.New(rdb)
	store, publisher := redisstore.NewWithRules(rdb, scripts, c.layout, rules), roomlog.NewPublisher(scripts, c.layout)
	server := rpc.NewServer(rpc.ServerConfig{StopTimeout: time.Second})
	roomv1.RegisterRoomServiceServer(server, room.NewService(store, publisher))
	server.SetServing(true)
	l, err := c.net.Listen(r.name)
	must(c.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Run(ctx, l) })
	running.Go(func() { room.Reap(ctx, store) })
	r.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		scripts.Close()
	})
	c.t.Cleanup(r.stop)
	c.rooms = append(c.rooms, r)
	return r
}

func (c *cluster) startGateway(configure func(*gateway.Config)) *node {
	name := fmt.Sprintf("gateway-%d", len(c.nodes)+1)
	cfg := c.config(name)
	cfg.Rooms = roomv1.NewRoomServiceClient(c.dialRooms(name))
	if configure != nil {
		configure(&cfg)
	}
	g, err := gateway.New(cfg)
	must(c.t, err)
	mux := http.NewServeMux()
	mux.Handle("/chat", g)
	mux.Handle("/v1/", httpapi.New(httpapi.Config{Rooms: cfg.Rooms, Identities: c.signer, Origins: cfg.Origins}))
	var l net.Listener
	if c.tcp {
		l, err = net.Listen("tcp", "127.0.0.1:0")
	} else {
		l, err = c.net.Listen(name)
	}
	must(c.t, err)
	n := &node{Gateway: g, c: c, name: name, url: "http://" + l.Addr().String()}
	server := httpapi.NewServer(mux, slog.New(slog.DiscardHandler))
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(l) })
	n.stop = sync.OnceFunc(func() {
		g.Close()
		_ = server.Close()
		running.Wait()
	})
	c.t.Cleanup(n.stop)
	c.nodes = append(c.nodes, n)
	return n
}

// config returns the configuration of a gateway with the contract's limits, without Rooms.
func (c *cluster) config(name string) gateway.Config {
	return gateway.Config{
		ID: name, Redis: c.connectRedis(name), Layout: c.layout,
		Identities: c.signer, Origins: new(origin.Policy), Refuse: httpapi.Refuse,
		MessageRate: 20, MessageBurst: 40, FrameRate: 100, FrameBurst: 50, WalkIn: true,
	}
}

// partition cuts two processes off from each other, or connects them again.
func (c *cluster) partition(from, to string, apart bool) {
	c.link(from, to).Refuse(apart)
	if apart {
		c.link(from, to).Cut()
	}
}

// link returns the network between two processes. In virtual time, a gateway's link to Redis
// must not be stalled for more than 4 s, which is how long its subscription waits for a probe.
// After that, go-redis would hold a mutex while it waits for its handshake, and a goroutine
// that waits for a mutex stops virtual time. partition has no such limit.
func (c *cluster) link(from, to string) *memnet.Link { return c.net.Link(from, to) }

// dial opens a connection as a browser does.
func (n *node) dial(ctx context.Context) (net.Conn, error) {
	if n.c.tcp {
		return new(net.Dialer).DialContext(ctx, "tcp", n.url[len("http://"):])
	}
	return n.c.net.Dial(ctx, "browser", n.name)
}

// client returns a Go client of a gateway.
func (n *node) client() *client.Client {
	cl, err := client.New(n.url, client.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
		return n.dial(ctx)
	}))
	must(n.c.t, err)
	n.c.t.Cleanup(cl.CloseIdleConnections)
	return cl
}

// call makes one HTTP call on a connection of its own, and decodes the answer.
func (n *node) call(method, path, identity string, body, answer any) int {
	n.c.t.Helper()
	var raw []byte
	var err error
	if body != nil {
		raw, err = json.Marshal(body)
		must(n.c.t, err)
	}
	req, err := http.NewRequest(method, n.url+path, bytes.NewReader(raw))
	must(n.c.t, err)
	if identity != "" {
		req.Header.Set("Authorization", "Bearer "+identity)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return n.dial(ctx)
	}}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	must(n.c.t, err)
	defer resp.Body.Close()
	raw, err = io.ReadAll(resp.Body)
	must(n.c.t, err)
	if answer != nil && resp.StatusCode < 300 {
		must(n.c.t, json.Unmarshal(raw, answer))
	}
	return resp.StatusCode
}

// roomSpec is the body of POST /v1/rooms.
type roomSpec struct {
	RoomID    string `json:"roomId,omitempty"`
	Capacity  int    `json:"capacity"`
	Presence  string `json:"presence,omitempty"`
	Departure int    `json:"departureTimeoutSeconds,omitempty"`
}

// roomInfo is what GET says of a room.
type roomInfo struct {
	RoomID             string
	Epoch              string
	Capacity           int
	Reserved, Occupied int
}

// room creates a room and returns its id.
func (c *cluster) room(s roomSpec) string {
	c.t.Helper()
	if s.Capacity == 0 {
		s.Capacity = 8
	}
	var made roomInfo
	if status := c.nodes[0].call("POST", "/v1/rooms", "", s, &made); status != http.StatusCreated {
		c.t.Fatalf("POST /v1/rooms answered %d", status)
	}
	return made.RoomID
}

// get asks a gateway for a room; status is 404 when there is none.
func (n *node) get(roomID string) (r roomInfo, status int) {
	n.c.t.Helper()
	status = n.call("GET", "/v1/rooms/"+roomID, "", nil, &r)
	return r, status
}

// occupied fails unless exactly this many seats of a room are occupied now.
func (c *cluster) occupied(roomID string, want int) {
	c.t.Helper()
	r, status := c.nodes[0].get(roomID)
	if status != http.StatusOK || r.Occupied != want {
		c.t.Fatalf("GET answered %d, occupied %d; want 200, %d", status, r.Occupied, want)
	}
}

// gone fails unless the room and all its keys are gone.
func (c *cluster) gone(roomID string) {
	c.t.Helper()
	if _, status := c.nodes[len(c.nodes)-1].get(roomID); status != http.StatusNotFound {
		c.t.Fatalf("GET answered %d, want 404", status)
	}
	for _, key := range c.layout.Keys(roomID).All()[2:] {
		if key != roomlog.SpentKey(c.layout.Partition(roomID)) && c.redis.Exists(key) {
			c.t.Fatalf("%s is left", key)
		}
	}
}

// user makes an identity for a user id.
func (c *cluster) user(nickname string) (userID, token string) {
	c.t.Helper()
	token, id, err := c.signer.Make(nickname)
	must(c.t, err)
	return id.UserID, token
}

// permit reserves a seat.
func (c *cluster) permit(roomID, identity string) string {
	c.t.Helper()
	var answer struct{ Permit string }
	if status := c.nodes[0].call("POST", "/v1/rooms/"+roomID+"/permits", identity, nil, &answer); status != http.StatusCreated {
		c.t.Fatalf("POST permits answered %d", status)
	}
	return answer.Permit
}

// publishRequest is a message of the application with a string as its body.
func publishRequest(roomID, text string) *roomv1.PublishRequest {
	return &roomv1.PublishRequest{RoomId: roomID, Body: structpb.NewStringValue(text)}
}
