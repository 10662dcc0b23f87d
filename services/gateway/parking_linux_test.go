package gateway_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
	"github.com/anteroom-chat/anteroom/services/gateway"
)

// parkedGateway makes two gateways over TCP. The returned function waits until exactly n of
// their members are parked.
func parkedGateway(t *testing.T) (c *cluster, parked func(n int), parkedNow func() float64) {
	set := metrics.NewSet()
	c = overTCP(t, shape{gateways: 2, configure: func(cfg *gateway.Config) { unlimited(cfg); cfg.Registry, cfg.QuietAfter = set, time.Second }})
	gauge := set.GetOrCreateGauge("anteroom_gateway_parked_sockets", nil)
	return c, func(n int) {
		t.Helper()
		for by := deadline(); gauge.Get() != float64(n); time.Sleep(time.Millisecond) {
			if time.Now().After(by) {
				t.Fatalf("%v members are parked, want %d", gauge.Get(), n)
			}
		}
	}, gauge.Get
}

func TestMembersWhoAreQuietAreParkedUntilTheySaySomething(t *testing.T) {
	c, parked, parkedNow := parkedGateway(t)
	roomID, a, b, _ := c.pair()
	parked(2)
	for i := range 200 { // while others talk, and while they have just been parked
		if i%2 == 0 {
			time.Sleep(rand.N(200 * time.Microsecond))
		}
		a.raw(encodeFrame(final|opPing, []byte("p")))
		for f := (frame{}); f.op != opPong; { // the gateway pings too
			var err error
			if f, err = a.readFrame(deadline()); err != nil {
				t.Fatalf("ping %d: %v", i, err)
			}
		}
	}
	parked(2)
	for i := range 3 {
		for range 10 {
			a.raw(encodeFrame(final|opPong, nil))
		}
		text := fmt.Sprint("said by one who was parked ", i)
		a.say("", text)
		a.heard(text)
		b.heard(text)
	}
	for n, awake := 0, false; !awake; n++ { // a member who talks keeps its goroutine
		if n == 100 {
			t.Fatal("a member who has just talked is parked")
		}
		text := fmt.Sprint("awake ", n)
		a.say("", text)
		a.heard(text)
		b.heard(text)
		awake = parkedNow() == 1 // unless this test was held up for a second
	}
	parked(2) // for a while
	a.raw(encodeFrame(opText, []byte(`{"type":"MESSAGE","body":`)))
	parked(1) // so does one in the middle of a message
	a.raw(encodeFrame(final|opContinuation, []byte(`"two halves"}`)))
	a.heard("two halves")
	b.heard("two halves")
	parked(2)
	c.occupied(roomID, 2)
}

func TestParkedMembersEndAsOthersDo(t *testing.T) {
	c, parked, _ := parkedGateway(t)
	n := c.nodes[0]
	_, token := c.user("")
	for name, end := range map[string]func(roomID string, p *peer){
		"taken over": func(roomID string, p *peer) {
			next, _ := n.walkIn(roomID, token)
			p.ends(wire.CloseReplaced)
			next.hangUp(1000)
		},
		"closed by the peer": func(_ string, p *peer) { p.hangUp(1001) },
		"leaves": func(_ string, p *peer) {
			p.text(`{"type":"LEAVE"}`)
			p.ends(wire.CloseNormal)
		},
		"cut off": func(roomID string, p *peer) {
			p.cut()
			parked(0)
			next, _ := n.walkIn(roomID, token) // the seat is kept
			next.hangUp(1000)
		},
		"deleted": func(roomID string, p *peer) {
			_, err := c.api.DeleteRoom(context.Background(), &roomv1.DeleteRoomRequest{RoomId: roomID})
			must(t, err)
			p.ends(wire.CloseRoomDeleted)
		},
	} {
		t.Run(name, func(t *testing.T) {
			roomID := c.room(roomSpec{})
			p := n.open(query("roomId", roomID, "identity", token)) // it has sent nothing
			p.expect(wire.TypeJoined)
			parked(1)
			end(roomID, p)
			c.gone(roomID)
			parked(0)
		})
	}
}

func TestMemberWhoTakesLongForItsReplayGoesOn(t *testing.T) {
	c, parked, _ := parkedGateway(t)
	roomID := c.room(roomSpec{})
	keeper, _ := c.nodes[1].walkIn(roomID, "")
	keeper.say("", "first")
	f := keeper.heard("first")
	for range 60 {
		body, err := structpb.NewValue(strings.Repeat("x", 12_000))
		must(t, err)
		_, err = c.api.Publish(context.Background(), &roomv1.PublishRequest{RoomId: roomID, Body: body})
		must(t, err)
		keeper.expect(wire.TypeMessage)
	}
	room, _ := c.nodes[0].get(roomID)
	p := c.nodes[0].open("/chat")
	must(t, p.conn.(*net.TCPConn).SetReadBuffer(64<<10))
	p.sendJoin(wire.ClientFrame{RoomID: roomID, After: &wire.Position{Epoch: room.Epoch, Seq: f.Seq}})
	keeper.expect(wire.TypeMemberJoined)
	keeper.sync()
	parked(1) // the keeper, who has sent something later than p
	p.expect(wire.TypeJoined)
	for range 60 {
		p.expect(wire.TypeMessage)
	}
	p.expect(wire.TypeMemberJoined) // its own, which is part of what it missed
	p.say("", "there at last")
	p.heard("there at last")
}
