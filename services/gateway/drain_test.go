package gateway_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

func TestDrainMovesMembersAwayAndKeepsTheirSeats(t *testing.T) {
	virtual(t, shape{gateways: 2}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		watcher, _ := c.nodes[1].walkIn(roomID, "")
		_, token := c.user("")
		mover, joined := c.nodes[0].walkIn(roomID, token)
		stayer, _ := c.nodes[0].walkIn(roomID, "")
		watcher.expect(wire.TypeMemberJoined)
		watcher.expect(wire.TypeMemberJoined)
		mover.expect(wire.TypeMemberJoined)
		if c.nodes[0].Draining() {
			t.Fatal("draining from the start")
		}
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			c.nodes[0].Drain(ctx)
		}()
		if f := mover.expect(wire.TypeDraining); f.ReconnectAfterMs < 0 || f.ReconnectAfterMs > 15_000 {
			t.Fatalf("got %s", show(f))
		}
		stayer.expect(wire.TypeDraining)
		if !c.nodes[0].Draining() {
			t.Fatal("not draining")
		}
		c.nodes[0].open("/chat").ends(wire.CloseRestart)
		c.nodes[0].open(query("roomId", roomID)).ends(wire.CloseRestart)

		again := c.nodes[1].open("/chat")
		f := again.join(wire.ClientFrame{RoomID: roomID, Identity: token, After: &wire.Position{Epoch: joined.Epoch, Seq: joined.Seq}})
		if !f.Recovered || f.Occupied != 3 {
			t.Fatalf("JOINED is %s", show(f))
		}
		mover.ends(wire.CloseReplaced)
		stayer.ends(wire.CloseRestart)
		c.occupiedAt(c.nodes[1], roomID, 3)
		<-drained
		c.nodes[0].stop()
		if f := watcher.expect(wire.TypeMemberLeft); f.Reason != wire.ReasonLost {
			t.Fatalf("got %s", show(f))
		}
	})
}

// occupiedAt asks a certain gateway.
func (c *cluster) occupiedAt(n *node, roomID string, want int) {
	c.t.Helper()
	if r, status := n.get(roomID); status != http.StatusOK || r.Occupied != want {
		c.t.Fatalf("GET answered %d, occupied %d; want 200, %d", status, r.Occupied, want)
	}
}

func TestDrainEndsWithItsContextThoughPeersDoNot(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		c.nodes[0].walkIn(c.room(roomSpec{}), "") // reads nothing
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		began := time.Now()
		c.nodes[0].Drain(ctx)
		c.nodes[0].stop()
		if d := time.Since(began); d > 5*time.Second {
			t.Fatalf("stopped after %v", d)
		}
	})
}

func TestCloseTellsPeersAndLeavesNothingRunning(t *testing.T) {
	// The bubble of virtual time ends only when every goroutine has.
	both(t, shape{}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		joined, _ := c.nodes[0].walkIn(roomID, "")
		idle := c.nodes[0].open("/chat")
		ended := make(chan [2]int)
		go func() { ended <- [2]int{joined.end(), idle.end()} }()
		c.nodes[0].stop()
		if codes := <-ended; codes != [2]int{1012, 1012} {
			t.Fatalf("closed with %v", codes)
		}
	})
}

func TestCloseEndsSocketsInEveryState(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		n, roomID := c.nodes[0], c.room(roomSpec{})
		n.open("/chat")
		n.walkIn(roomID, "")
		p, _ := n.walkIn(roomID, "")
		p.cut()
		c.link("gateway-1", "rooms-1").Stall(true)
		n.open("/chat").sendJoin(wire.ClientFrame{RoomID: roomID})
		leaver, _ := p, 0
		leaver.text(`{"type":"LEAVE"}`)
		time.Sleep(time.Millisecond)
		began := time.Now()
		n.stop()
		if d := time.Since(began); d > 15*time.Second {
			t.Fatalf("stopped after %v", d)
		}
		c.link("gateway-1", "rooms-1").Stall(false)
	})
}
