package gateway_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"google.golang.org/grpc"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
	"github.com/anteroom-chat/anteroom/services/gateway"
)

// The gateway or Redis stalls, and the user gives up and joins elsewhere. What is then found
// on the old socket must not take the seat over.
func TestJoinWhosePeerBrokeOffMeanwhileTakesNoSeat(t *testing.T) {
	c := overTCP(t, shape{gateways: 2})
	roomID := c.room(roomSpec{})
	_, token := c.user("")
	c.link("gateway-1", "redis").Stall(true)
	c.nodes[0].open(query("roomId", roomID, "identity", token)).cut()
	for _, giveUp := range []func(*peer){
		(*peer).cut,
		func(p *peer) { p.raw(encodeFrame(final|opClose, []byte{0x03, 0xe8})) }, // browsers do this, and wait
	} {
		p := c.nodes[0].open("/chat")
		p.sendJoin(wire.ClientFrame{RoomID: roomID, Identity: token})
		giveUp(p)
	}
	live, _ := c.nodes[1].walkIn(roomID, token)
	c.link("gateway-1", "redis").Stall(false)
	c.nodes[0].walkIn(roomID, "") // needs the same subscription as those two
	c.nodes[0].stop()             // waits for them
	live.expect(wire.TypeMemberJoined)
	live.sync()
	c.occupiedAt(c.nodes[1], roomID, 2)
}

func TestJoinWhoseConfirmationIsLostLeavesNoSeatBehind(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		watcher, _ := c.nodes[0].walkIn(roomID, "")
		c.link("gateway-1", "rooms-1").StallWays(false, true)
		p := c.nodes[0].open("/chat")
		p.sendJoin(wire.ClientFrame{RoomID: roomID})
		p.refusal(wire.Unavailable)
		p.ends(wire.CloseUnavailable)
		watcher.expect(wire.TypeMemberJoined)
		c.link("gateway-1", "rooms-1").Stall(false)
		watcher.expect(wire.TypeMemberLeft)
		c.occupied(roomID, 1)
	})
}

// holding is a room service whose first ConfirmJoin is delayed on its way, and which then gets
// no Leave either.
type holding struct {
	roomv1.RoomServiceClient
	held chan *roomv1.ConfirmJoinRequest // takes one
}

func (h holding) ConfirmJoin(ctx context.Context, req *roomv1.ConfirmJoinRequest, options ...grpc.CallOption) (*roomv1.ConfirmJoinResponse, error) {
	select {
	case h.held <- req:
		<-ctx.Done()
		return nil, wire.Errorf(wire.Unavailable, "held up")
	default:
		return h.RoomServiceClient.ConfirmJoin(ctx, req, options...)
	}
}

func (holding) Leave(context.Context, *roomv1.LeaveRequest, ...grpc.CallOption) (*roomv1.LeaveResponse, error) {
	return nil, wire.Errorf(wire.Unavailable, "lost")
}

// The user who gets the error joins again before the first call gets through.
func TestJoinThatFailedDoesNotHappenLater(t *testing.T) {
	held := make(chan *roomv1.ConfirmJoinRequest, 1)
	virtual(t, shape{configure: func(cfg *gateway.Config) { cfg.Rooms = holding{cfg.Rooms, held} }}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		_, token := c.user("")
		p := c.nodes[0].open("/chat")
		p.sendJoin(wire.ClientFrame{RoomID: roomID, Identity: token})
		p.refusal(wire.Unavailable)
		again, _ := c.nodes[0].walkIn(roomID, token)
		if _, err := c.api.ConfirmJoin(t.Context(), <-held); wire.CodeOf(err) != wire.Unavailable {
			t.Fatalf("got %v", err)
		}
		again.quiet(time.Minute)
		c.occupied(roomID, 1)
	})
}

// slow is a room service that refuses joins after a while, as if an earlier try of the same
// call was stuck elsewhere.
type slow struct {
	roomv1.RoomServiceClient
	hearsLeave bool
}

func (slow) ConfirmJoin(context.Context, *roomv1.ConfirmJoinRequest, ...grpc.CallOption) (*roomv1.ConfirmJoinResponse, error) {
	time.Sleep(300 * time.Millisecond)
	return nil, wire.Errorf(wire.RoomFull, "full")
}

func (s slow) Leave(ctx context.Context, req *roomv1.LeaveRequest, options ...grpc.CallOption) (*roomv1.LeaveResponse, error) {
	if !s.hearsLeave {
		return nil, wire.Errorf(wire.Unavailable, "lost")
	}
	return s.RoomServiceClient.Leave(ctx, req, options...)
}

func TestClientHearsOfAFailedJoinOnceNoneCanHappenAnyMore(t *testing.T) {
	for hearsLeave, want := range map[bool]time.Duration{true: 300 * time.Millisecond, false: 5 * time.Second} {
		t.Run(fmt.Sprint("leave is heard: ", hearsLeave), func(t *testing.T) {
			s := shape{configure: func(cfg *gateway.Config) { cfg.Rooms = slow{cfg.Rooms, hearsLeave} }}
			virtual(t, s, func(t *testing.T, c *cluster) {
				p := c.nodes[0].open("/chat")
				began := time.Now()
				p.sendJoin(wire.ClientFrame{RoomID: c.room(roomSpec{})})
				p.refusal(wire.RoomFull)
				if took := time.Since(began); took < want || took > want+100*time.Millisecond {
					t.Fatalf("told after %v, want %v", took, want)
				}
			})
		})
	}
}

// panicking is a room service whose ConfirmJoin panics in the caller.
type panicking struct{ roomv1.RoomServiceClient }

func (panicking) ConfirmJoin(context.Context, *roomv1.ConfirmJoinRequest, ...grpc.CallOption) (*roomv1.ConfirmJoinResponse, error) {
	panic("a defect")
}

// That join runs on a goroutine of the HTTP server, which recovers from panics.
func TestJoinThatPanicsEndsItsSocketAndNothingElse(t *testing.T) {
	traced := make(map[string]string)
	virtual(t, shape{configure: func(cfg *gateway.Config) {
		cfg.Rooms = panicking{cfg.Rooms}
		cfg.Trace = func(ctx context.Context, name string) (context.Context, func(string, bool)) {
			return ctx, func(result string, _ bool) { traced[name] = result }
		}
	}}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		p := c.nodes[0].open("/chat?roomId=" + roomID)
		if code := p.end(); code != int(wire.CloseInternal) {
			t.Fatalf("closed with %d", code)
		}
		synctest.Wait()
		channel := c.layout.Keys(roomID).Channel()
		if n := c.rdb.PubSubNumSub(t.Context(), channel).Val()[channel]; n != 0 {
			t.Errorf("%d follow the room", n)
		}
		if traced["follow"] != "ok" || traced["join"] != string(wire.Internal) {
			t.Errorf("traced %v", traced)
		}
		other := c.nodes[0].open("/chat")
		other.sync()
	})
}

// tardy returns the answer to a ConfirmJoin only after the lease that it gives has ended.
type tardy struct{ roomv1.RoomServiceClient }

func (r tardy) ConfirmJoin(ctx context.Context, in *roomv1.ConfirmJoinRequest, opts ...grpc.CallOption) (*roomv1.ConfirmJoinResponse, error) {
	resp, err := r.RoomServiceClient.ConfirmJoin(ctx, in, opts...)
	time.Sleep(wire.Lease + 1250*time.Millisecond) // virtual, and not when the keeper looks
	return resp, err
}

func TestAMemberWhoseLeaseEndedDuringItsJoinMayLeave(t *testing.T) {
	virtual(t, shape{configure: func(cfg *gateway.Config) { cfg.Rooms = tardy{cfg.Rooms} }}, func(t *testing.T, c *cluster) {
		p := c.nodes[0].open("/chat")
		p.sendJoin(wire.ClientFrame{RoomID: c.room(roomSpec{})})
		p.text(`{"type":"LEAVE"}`)
		p.ends(wire.CloseNormal)
		c.nodes[0].open("/chat").sync()
	})
}

func TestAJoinThatCannotBeToldWhatWasMissedIsCountedAsSuch(t *testing.T) {
	set := metrics.NewSet()
	virtual(t, shape{configure: func(cfg *gateway.Config) { cfg.Registry = set }}, func(t *testing.T, c *cluster) {
		n := c.nodes[0]
		roomID := c.room(roomSpec{})
		_, token := c.user("")
		n.walkIn(roomID, "")
		p, joined := n.walkIn(roomID, token)
		p.cut()
		c.publish(roomID, 1, 2)
		joins := func(result string) uint64 {
			return set.GetOrCreateCounter(`anteroom_gateway_joins_total{result="` + result + `"}`).Get()
		}
		before := joins("ok")
		c.link("gateway-1", "redis").Stall(true)
		again := n.open("/chat")
		again.sendJoin(wire.ClientFrame{RoomID: roomID, Identity: token, After: &wire.Position{Epoch: joined.Epoch, Seq: joined.Seq}})
		again.refusal(wire.Unavailable)
		again.ends(wire.CloseUnavailable)
		c.link("gateway-1", "redis").Stall(false)
		if ok, unavailable := joins("ok")-before, joins("UNAVAILABLE"); ok != 0 || unavailable != 1 {
			t.Errorf("%d joins are counted as ok, %d as UNAVAILABLE", ok, unavailable)
		}
	})
}
