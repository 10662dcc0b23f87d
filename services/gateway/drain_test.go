package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/gateway/server"
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
		lingerer := c.nodes[0].open("/chat")
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
		for _, path := range []string{"/chat", query("roomId", roomID)} {
			late := c.nodes[0].open(path)
			late.refusal(wire.Unavailable)
			late.ends(wire.CloseRestart)
		}

		// A socket that was open before gets no seat, since it would have to leave it at once.
		lingerer.expect(wire.TypeDraining)
		lingerer.sendJoin(wire.ClientFrame{RoomID: roomID})
		lingerer.refusal(wire.Unavailable)
		lingerer.ends(wire.CloseRestart)

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

// If a thousand members stay although they were asked to move, each is closed in its turn.
func TestDrainIsAnEvenStream(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		const sockets, window, grace = 1000, time.Second, 2 * time.Second
		var peers [sockets]*peer
		for i := range peers {
			peers[i] = c.nodes[0].open("/chat")
		}
		var mu sync.Mutex // guards tenths
		var tenths [10]int
		var all sync.WaitGroup
		all.Go(func() { c.nodes[0].Drain(context.Background()) })
		for _, p := range peers {
			all.Go(func() {
				f, err := p.receiveFrame(deadline())
				told := time.Now()
				delay := time.Duration(f.ReconnectAfterMs) * time.Millisecond
				if err != nil || f.Type != wire.TypeDraining || delay < 0 || delay >= window {
					t.Errorf("got %s, %v", show(f), err)
					return
				}
				mu.Lock()
				tenths[10*delay/window]++
				mu.Unlock()
				_, err = p.receiveFrame(deadline())
				if end, ok := errors.AsType[*closed](err); !ok || end.code != int(wire.CloseRestart) {
					t.Errorf("got %v", err)
				}
				if stayed := time.Since(told); stayed != delay+grace {
					t.Errorf("told to move after %v, closed after %v", delay, stayed)
				}
			})
		}
		all.Wait()
		for i, n := range tenths {
			if n != sockets/10 {
				t.Errorf("%d of %d move in tenth %d of the time", n, sockets, i+1)
			}
		}
	})
}

func TestARoomOnADrainingGatewayAloneMovesWhole(t *testing.T) {
	virtual(t, shape{gateways: 2}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		const members = 5
		var tokens [members]string
		var peers [members]*peer
		var positions [members]wire.Position
		for i := range peers {
			_, tokens[i] = c.user(fmt.Sprint("member ", i))
			var f wire.ServerFrame
			peers[i], f = c.nodes[0].walkIn(roomID, tokens[i])
			positions[i] = wire.Position{Epoch: f.Epoch, Seq: f.Seq}
		}
		drained := make(chan struct{})
		go func() { c.nodes[0].Drain(context.Background()); close(drained) }()
		for i, old := range peers {
			positions[i].Seq = old.unbroken(positions[i].Seq, wire.TypeDraining)
			word := fmt.Sprint("last word of ", i)
			old.say(word, word) // may come too late there
			peers[i] = c.nodes[1].open("/chat")
			f := peers[i].join(wire.ClientFrame{RoomID: roomID, Identity: tokens[i], After: &positions[i]})
			if !f.Recovered || f.Occupied != members {
				t.Fatalf("member %d came back with %s", i, show(f))
			}
			if code := old.end(); code != int(wire.CloseReplaced) {
				t.Fatalf("closed with %d", code)
			}
			peers[i].say(word, word)
			positions[i].Seq = peers[i].unbroken(positions[i].Seq, word)
		}
		<-drained
		c.nodes[0].stop()
		peers[0].say("all here", "")
		for i, p := range peers {
			if last := p.unbroken(positions[i].Seq, "all here"); last != 2*members+1 {
				t.Errorf("member %d has entries to %d", i, last)
			}
		}
		time.Sleep(2 * wire.Lease)
		c.occupiedAt(c.nodes[1], roomID, members)
	})
}

// unbroken reads up to a frame of this type or with this id, and returns the seq of the last
// entry. It fails unless the entries continue from seq without a hole. The answer to a message
// that was sent twice may come twice.
func (p *peer) unbroken(seq int64, until string) int64 {
	p.t.Helper()
	for {
		f := p.next()
		again := f.ID != "" && f.Seq <= seq
		if f.Seq > 0 && f.Seq != seq+1 && !again || f.Type == wire.TypeMemberLeft {
			p.t.Fatalf("got %s behind seq %d", show(f), seq)
		}
		seq = max(seq, f.Seq)
		if f.Type == until || f.ID == until {
			return seq
		}
	}
}

func TestAStopTakes30SecondsAtMost(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		const name = "gateway-2"
		s, err := server.New(server.Config{Gateway: c.config(name), RoomsConn: c.dialRooms(name), DrainTimeout: 30 * time.Second})
		must(t, err)
		l, err := c.net.Listen(name)
		must(t, err)
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx, l) }()
		n := &node{c: c, name: name, url: "http://" + l.Addr().String()}
		roomID := c.room(roomSpec{})
		n.walkIn(roomID, "") // this peer answers nothing, and takes nothing of what fills its connection:
		for range 20 {
			_, err := c.api.Publish(t.Context(), publishRequest(roomID, strings.Repeat("x", 10_000)))
			must(t, err)
		}
		half, err := n.dial(t.Context()) // a request that never ends
		must(t, err)
		_, err = half.Write([]byte("POST /v1/rooms HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"))
		must(t, err)
		synctest.Wait()
		began := time.Now()
		stop()
		must(t, <-ended)
		if d := time.Since(began); d > 30*time.Second {
			t.Errorf("stopped after %v", d)
		}
		_ = half.Close()
	})
}

// occupiedAt is occupied, asked of this gateway.
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
		broken, _ := n.walkIn(roomID, "")
		broken.cut()
		leaver, _ := n.walkIn(roomID, "")
		c.link("gateway-1", "rooms-1").Stall(true)
		n.open("/chat").sendJoin(wire.ClientFrame{RoomID: roomID})
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
