package sim

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/anteroom-chat/anteroom/pkg/rpc"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
	"github.com/anteroom-chat/anteroom/services/room"
)

// The retries of package rpc's service config.
const (
	callAttempts = 3
	firstBackoff = 50 * time.Millisecond
	maxBackoff   = 500 * time.Millisecond
)

// trouble is what happens to one request on its way to a room service.
type trouble struct {
	Loss  string        // "request" or "reply": it is lost
	Reset bool          // the caller learns of the loss at once, by UNAVAILABLE
	Late  time.Duration // the request is delayed by this time
	Again time.Duration // the request arrives once more after this time
}

// roomsConn is a gateway's connection to the room services. It replaces gRPC's, and behaves
// the same in balancing, retries and errors. Requests go through the simulated network.
type roomsConn struct {
	w    *world
	from *host
	name string

	mu    sync.Mutex
	calls int
	armed map[string][]trouble // by method: what happens to its next requests
}

func newRoomsConn(w *world, from *host) *roomsConn {
	return &roomsConn{w: w, from: from, name: from.name, armed: make(map[string][]trouble)}
}

var _ grpc.ClientConnInterface = (*roomsConn)(nil)

// NewStream is not used: the service has no streams.
func (c *roomsConn) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "no streams")
}

// Invoke makes a call as package rpc's connections do.
func (c *roomsConn) Invoke(ctx context.Context, method string, req, resp any, _ ...grpc.CallOption) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, rpc.DefaultTimeout)
		defer cancel()
	}
	name := method[strings.LastIndexByte(method, '/')+1:]
	var err error
	for attempt := range callAttempts {
		if err = c.attempt(ctx, name, req.(proto.Message), resp.(proto.Message)); status.Code(err) != codes.Unavailable {
			break
		}
		if attempt+1 < callAttempts && !sleep(ctx, min(firstBackoff<<(2*attempt), maxBackoff)) {
			break
		}
	}
	return rpc.FromStatus(err)
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

type reply struct {
	msg proto.Message
	err error
}

// attempt sends one request and waits for its reply until ctx ends.
func (c *roomsConn) attempt(ctx context.Context, method string, req, resp proto.Message) error {
	target := c.w.pickRooms()
	if target == nil {
		return status.Error(codes.Unavailable, "no room service")
	}
	done := make(chan reply, 1)
	limit := rpc.DefaultDeadline
	if deadline, ok := ctx.Deadline(); ok {
		limit = time.Until(deadline)
	}
	t, number := c.next(method)
	c.w.background.Go(func() { c.deliver(target, method, proto.Clone(req), limit, t, number, done) })
	select {
	case r := <-done:
		if r.err != nil {
			return r.err
		}
		proto.Merge(resp, r.msg)
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// next returns what happens to the next request of a method, and its number.
func (c *roomsConn) next(method string) (t trouble, number int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	for _, key := range []string{method, ""} {
		if armed := c.armed[key]; len(armed) > 0 {
			c.armed[key] = armed[1:]
			return armed[0], c.calls
		}
	}
	return trouble{}, c.calls
}

// arm makes trouble happen to the next request of a method, or of any method for "".
func (c *roomsConn) arm(method string, t trouble) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed[method] = append(c.armed[method], t)
}

// deliver carries a request to a room service and the reply back. A request that is on its
// way arrives even if its caller has given up long ago.
func (c *roomsConn) deliver(to *roomService, method string, req proto.Message, limit time.Duration, t trouble, number int, done chan<- reply) {
	fail := func(err error) {
		done <- reply{err: status.Error(codes.Unavailable, fmt.Sprint("transport: ", err))}
	}
	lose := func() {
		if t.Reset {
			fail(errReset)
		}
	}
	time.Sleep(c.w.net.latency(c.name+"!"+method, number) + t.Late)
	if t.Loss == "request" {
		lose()
		return
	}
	if err := c.w.net.passage(c.w.ctx, c.from, to.host); err != nil {
		fail(err)
		return
	}
	r := to.serve(method, req, limit)
	if t.Again > 0 {
		c.w.background.Go(func() { c.repeat(method, req, limit, t.Again) })
	}
	if t.Loss == "reply" {
		lose()
		return
	}
	time.Sleep(c.w.net.latency(c.name+"?"+method, number))
	if err := c.w.net.passage(c.w.ctx, to.host, c.from); err != nil {
		fail(err) // the caller is gone, or the server died before the reply left
		return
	}
	done <- r
}

// repeat delivers a request once more, to any room service that is there then.
func (c *roomsConn) repeat(method string, req proto.Message, limit, after time.Duration) {
	if !sleep(c.w.ctx, after) {
		return
	}
	if to := c.w.pickRooms(); to != nil && c.w.net.passage(c.w.ctx, c.w.users, to.host) == nil {
		to.serve(method, req, limit)
	}
}

// roomService is one room service.
type roomService struct {
	w     *world
	host  *host
	srv   *room.Service
	alive context.Context
	close func() // ends it and waits for its end
}

var roomMethods = func() map[string]grpc.MethodHandler {
	methods := make(map[string]grpc.MethodHandler)
	for _, m := range roomv1.RoomService_ServiceDesc.Methods {
		methods[m.MethodName] = m.Handler
	}
	return methods
}()

// serve carries a request out, records it, and returns what package rpc's servers would
// answer.
func (s *roomService) serve(method string, req proto.Message, limit time.Duration) reply {
	ctx, cancel := context.WithTimeout(s.alive, max(min(limit, rpc.MaxDeadline), time.Millisecond))
	defer cancel()
	began := time.Now()
	resp, err := roomMethods[method](s.srv, ctx, func(in any) error {
		proto.Merge(in.(proto.Message), req)
		return nil
	}, nil)
	s.w.recorded(&call{Method: method, Req: req, Resp: resp, Err: err, Call: began, Return: time.Now(), By: s.host})
	if err != nil {
		st, _ := rpc.ToStatus(err)
		return reply{err: st.Err()}
	}
	return reply{msg: resp.(proto.Message)}
}

// call is a request as a room service carried it out.
type call struct {
	Method       string
	Req          proto.Message
	Resp         any
	Err          error
	Call, Return time.Time
	By           *host
	// Settled is a time from which nothing of the call can be on its way to Redis any more.
	Settled time.Time
}

// unknown reports whether the call failed in a way that leaves open whether it was carried
// out, or still may be.
func (c *call) unknown() bool {
	code := wire.CodeOf(c.Err)
	return c.Err != nil && (code == wire.Unavailable || code == wire.Internal)
}

// recorded keeps a call.
func (w *world) recorded(c *call) {
	c.Settled = c.Return
	w.history.add(c)
	if w.cfg.Trace {
		for room, e := range events(c) {
			w.note("call  %s %s since %v: %v", room, c.By.name, c.Call.Sub(w.started), e)
		}
	}
	if c.Err != nil && wire.CodeOf(c.Err) == wire.Internal {
		w.tell("internal", "%s: %v", c.Method, c.Err)
	}
	if !c.unknown() {
		return
	}
	w.background.Go(func() { // what was sent arrives when the way is free
		w.net.arrived(w.ctx, c.By, w.store)
		time.Sleep(2 * (latencyMin + latencySpread))
		c.Settled = time.Now()
	})
}

// history is all calls in the order in which they ended.
type history struct {
	mu    sync.Mutex
	calls []*call
}

func (h *history) add(c *call) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, c)
}
