package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
)

func TestSocketThatBreaksKeepsItsSeatUntilTheLeaseEndsAndIsLost(t *testing.T) {
	virtual(t, shape{gateways: 2}, func(t *testing.T, c *cluster) {
		for _, end := range []func(*peer){
			(*peer).cut,
			func(p *peer) { p.raw(encodeFrame(final|opClose, []byte{4000 >> 8, 4000 & 0xff})); p.end() },
			func(p *peer) { p.raw(encodeFrame(final|opClose, []byte{0x03, 0xf2})); p.end() }, // 1010
		} {
			roomID := c.room(roomSpec{})
			watcher, _ := c.nodes[0].walkIn(roomID, "")
			p, joined := c.nodes[1].walkIn(roomID, "")
			watcher.expect(wire.TypeMemberJoined)
			time.Sleep(7 * time.Second) // renewed at least once
			end(p)
			began := time.Now()
			watcher.quiet(wire.Lease - wire.RenewEvery - time.Second)
			c.occupied(roomID, 2)
			f := watcher.expect(wire.TypeMemberLeft)
			if f.Reason != wire.ReasonLost || f.Member.UserID != joined.UserID || f.Occupied != 1 {
				t.Fatalf("got %s", show(f))
			}
			if d := time.Since(began); d > 17*time.Second {
				t.Fatalf("LOST after %v", d)
			}
		}
	})
}

// Meanwhile the peer is sent what was queued for it, however slowly it reads.
func TestPeerThatEndedAndReadsOnKeepsItsSeatForTheRestOfItsLeaseOnly(t *testing.T) {
	virtual(t, shape{configure: unlimited}, func(t *testing.T, c *cluster) {
		watcher, p := unread(c, 15)
		must(t, p.conn.(interface{ CloseWrite() error }).CloseWrite())
		began := time.Now()
		var reader sync.WaitGroup
		reader.Go(func() {
			for some := make([]byte, 1); ; {
				if _, err := p.conn.Read(some); err != nil {
					return
				}
				time.Sleep(5 * time.Second) // virtual, as all time here
			}
		})
		defer reader.Wait()
		defer p.cut()
		if f := watcher.expect(wire.TypeMemberLeft); f.Reason != wire.ReasonLost {
			t.Fatalf("got %s", show(f))
		}
		if d := time.Since(began); d > 17*time.Second {
			t.Errorf("LOST after %v", d)
		}
	})
}

func TestLeasesAreRenewedForAsLongAsTheSocketLives(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		p, _ := c.nodes[0].walkIn(roomID, "")
		p.quiet(5 * time.Minute)
		p.say("", "here")
		p.heard("here")
		c.occupied(roomID, 1)
	})
}

func TestServerPingsEvery25SecondsAndDropsWhoIsSilentFor35(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		p, _ := c.nodes[0].walkIn(c.room(roomSpec{}), "")
		var last time.Time
		for range 4 {
			f, err := p.readFrame(time.Now().Add(time.Minute))
			must(t, err)
			if f.op != opPing {
				t.Fatalf("opcode %d", f.op)
			}
			if d := time.Since(last); !last.IsZero() && d != wire.PingEvery {
				t.Fatalf("a ping %v behind the last", d)
			}
			last = time.Now()
			p.raw(encodeFrame(final|opPong, f.payload))
		}
		p.mute = true
		_, err := p.receive(time.Now().Add(time.Minute))
		var end *closed
		if !errors.As(err, &end) || end.code != 1006 {
			t.Fatalf("got %v", err)
		}
		if d := time.Since(last); d < wire.PeerSilence || d > wire.PeerSilence+time.Second {
			t.Fatalf("dropped after %v", d)
		}
	})
}

func TestSilentPeerKeepsItsSeatForTheRestOfItsLeaseOnly(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		c.nodes[0].walkIn(roomID, "") // never reads, nor answers pings
		time.Sleep(wire.PeerSilence + 17*time.Second)
		c.gone(roomID)
	})
}

// testSlowReader checks that a reader that stops reading is closed and learns why when it
// reads on. The others are not disturbed, and what it missed comes when it rejoins.
func testSlowReader(t *testing.T, c *cluster, said int, pause time.Duration) {
	roomID := c.room(roomSpec{})
	_, token := c.user("")
	fast, _ := c.nodes[0].walkIn(roomID, "")
	slow, joined := c.nodes[0].walkIn(roomID, token)
	fast.expect(wire.TypeMemberJoined)
	body := strings.Repeat("x", 15<<10)
	seq := joined.Seq
	for range said {
		fast.say("", body)
		for f := (wire.ServerFrame{}); f.Type != wire.TypeMessage; {
			// On a slow machine, the other's lease ends before all messages are sent.
			if f, seq = fast.next(), seq+1; f.Seq != seq || f.Type != wire.TypeMessage && f.Type != wire.TypeMemberLeft {
				t.Fatalf("got %s, want seq %d", show(f), seq)
			}
		}
	}
	time.Sleep(pause)
	last := joined.Seq
	for {
		f, err := slow.receiveFrame(deadline())
		if err != nil {
			var end *closed
			if !errors.As(err, &end) || end.code != int(wire.CloseSlowConsumer) {
				t.Fatalf("ended by %v, want 4508", err)
			}
			break
		}
		if f.Seq != last+1 {
			t.Fatalf("got seq %d behind %d", f.Seq, last)
		}
		last = f.Seq
	}
	if last == seq {
		t.Fatal("everything fitted into buffers")
	}
	fast.idle(10*time.Millisecond, wire.TypeMemberLeft)
	again := c.nodes[0].open("/chat")
	f := again.join(wire.ClientFrame{RoomID: roomID, Identity: token, After: &wire.Position{Epoch: joined.Epoch, Seq: last}})
	if !f.Recovered {
		t.Fatalf("JOINED is %s", show(f))
	}
	again.entries(last+1, f.Seq)
	again.sync()
}

func TestSlowReaderIsClosedWith4508AndLosesNothing(t *testing.T) {
	t.Run("tcp", func(t *testing.T) { testSlowReader(t, overTCP(t, shape{configure: unlimited}), 500, 0) }) // 7.5 MB
	t.Run("virtual", func(t *testing.T) {
		virtual(t, shape{configure: unlimited}, func(t *testing.T, c *cluster) { testSlowReader(t, c, 50, 25*time.Second) })
	})
}

// unread makes a room with two members: fast has sent this many messages of 15 KiB, and slow
// has read none of them.
func unread(c *cluster, messages int) (fast, slow *peer) {
	roomID := c.room(roomSpec{})
	fast, _ = c.nodes[0].walkIn(roomID, "")
	slow, _ = c.nodes[0].walkIn(roomID, "")
	fast.expect(wire.TypeMemberJoined)
	for range messages {
		fast.say("", strings.Repeat("x", 15<<10))
		fast.expect(wire.TypeMessage)
	}
	return fast, slow
}

func TestReaderThatTakesNothingForTenSecondsIsClosedWith4508(t *testing.T) {
	virtual(t, shape{configure: unlimited}, func(t *testing.T, c *cluster) {
		fast, slow := unread(c, 8) // 64 KiB are on their way, and less than 256 KiB are queued
		fast.idle(wire.SendTimeout+time.Second, wire.TypeMemberLeft)
		fast.say("", "too late")
		fast.heard("too late")
		for seq := int64(3); ; seq++ {
			f, err := slow.receiveFrame(deadline())
			if err == nil && f.Seq == seq && seq < 11 {
				continue
			}
			var end *closed
			if !errors.As(err, &end) || end.code != int(wire.CloseSlowConsumer) || seq < 6 {
				t.Fatalf("got %s, %v where seq is %d", show(f), err, seq)
			}
			return
		}
	})
}

func TestReaderThatTakesSomethingNowAndThenGoesOn(t *testing.T) {
	virtual(t, shape{configure: unlimited}, func(t *testing.T, c *cluster) {
		const said = 12
		_, slow := unread(c, said)
		for range said {
			time.Sleep(2 * time.Second)
			slow.expect(wire.TypeMessage)
		}
		slow.sync()
	})
}

func TestRedisOutOfReachIsUnavailableAndAllGoesOnAfterwards(t *testing.T) {
	virtual(t, shape{gateways: 2}, func(t *testing.T, c *cluster) {
		roomID, a, b, _ := c.pair()
		redisDown := func(down bool) {
			for _, from := range []string{"gateway-1", "gateway-2", "rooms-1"} {
				c.partition(from, "redis", down)
			}
		}
		redisDown(true)
		a.say("lost-1", "x")
		if f := a.refusal(wire.Unavailable); f.ID != "lost-1" {
			t.Fatalf("got %s", show(f))
		}
		c.nodes[0].refused(wire.ClientFrame{RoomID: roomID}, wire.Unavailable)
		c.nodes[1].refusedByURL(query("roomId", "no-such-room"), wire.Unavailable)
		time.Sleep(3 * time.Second)
		redisDown(false)
		time.Sleep(3 * time.Second)
		a.say("lost-1", "x")
		b.heard("x")
		a.heard("x")
		b.say("", "back")
		a.heard("back")
		b.heard("back")
		d, _ := c.nodes[0].walkIn(roomID, "")
		a.expect(wire.TypeMemberJoined)
		b.expect(wire.TypeMemberJoined)
		d.hangUp(1000)
		a.expect(wire.TypeMemberLeft)
		b.expect(wire.TypeMemberLeft)
		c.occupied(roomID, 2)
	})
}

func TestRedisThatIsSilentIsUnavailableWithinSeconds(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		p, _ := c.nodes[0].walkIn(roomID, "")
		for _, from := range []string{"gateway-1", "rooms-1"} {
			c.link(from, "redis").Stall(true)
		}
		began := time.Now()
		p.say("m", "x")
		if f := p.refusal(wire.Unavailable); f.ID != "m" || time.Since(began) > 7*time.Second {
			t.Fatalf("got %s after %v", show(f), time.Since(began))
		}
		for _, from := range []string{"gateway-1", "rooms-1"} {
			c.link(from, "redis").Stall(false)
		}
		time.Sleep(2 * time.Second)
		p.say("again", "y")
		// The first one may be in the log although its answer was lost.
		for {
			if f := p.next(); f.Type == wire.TypeMessage && f.ID == "again" {
				break
			}
		}
	})
}

// After a member has left, only its gateway can give its seat up.
func TestSeatThatCouldNotBeGivenUpIsGivenUpLater(t *testing.T) {
	for name, leave := range map[string]func(*peer){
		"LEAVE": func(p *peer) {
			p.json(wire.ClientFrame{Type: wire.TypeLeave})
			p.refusal(wire.Unavailable)
			p.ends(wire.CloseUnavailable)
		},
		"close": func(p *peer) { p.hangUp(1000) },
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, shape{}, func(t *testing.T, c *cluster) {
				roomID := c.room(roomSpec{})
				watcher, _ := c.nodes[0].walkIn(roomID, "")
				p, joined := c.nodes[0].walkIn(roomID, "")
				watcher.expect(wire.TypeMemberJoined)
				time.Sleep(time.Second) // renewed, or not yet
				c.link("rooms-1", "redis").Stall(true)
				began := time.Now()
				leave(p)
				time.Sleep(5*time.Second - time.Since(began))
				c.link("rooms-1", "redis").Stall(false)
				f := watcher.expect(wire.TypeMemberLeft)
				if took := time.Since(began); f.Member.UserID != joined.UserID || f.Reason != wire.ReasonLeft || took > 9*time.Second {
					t.Fatalf("%s after %v", show(f), took)
				}
			})
		})
	}
}

func TestLeaseThatCannotBeRenewedClosesWith4504BeforeItEnds(t *testing.T) {
	for name, fail := range map[string]func(c *cluster){
		"room service silent": func(c *cluster) { c.link("gateway-1", "rooms-1").Stall(true) },
		"room service gone": func(c *cluster) {
			c.partition("gateway-1", "rooms-1", true)
		},
		"answers lost": func(c *cluster) { c.link("gateway-1", "rooms-1").StallWays(false, true) },
		"redis silent": func(c *cluster) { c.link("rooms-1", "redis").Stall(true) },
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, shape{}, func(t *testing.T, c *cluster) {
				roomID := c.room(roomSpec{Departure: 60})
				p, joined := c.nodes[0].walkIn(roomID, "")
				p.quiet(12 * time.Second)
				fail(c)
				began := time.Now()
				if code := p.endBy(began.Add(time.Minute)); code != int(wire.CloseLeaseLost) {
					t.Fatalf("closed with %d", code)
				}
				ended := time.Now()
				if d := ended.Sub(began); d > wire.Lease || d < wire.Lease-wire.RenewEvery-3*time.Second {
					t.Fatalf("closed after %v", d)
				}
				ends, err := c.rdb.ZScore(context.Background(), c.layout.Keys(roomID).Leases(), roomlog.Lease(roomID, joined.SessionID)).Result()
				if err == nil && ended.UnixMilli() >= int64(ends) {
					t.Fatalf("closed at %v, the lease ended at %v", ended.UnixMilli(), int64(ends))
				}
			})
		})
	}
}

// However often the subscription breaks, members get everything once and in order.
func TestBrokenSubscriptionsLoseNothing(t *testing.T) {
	virtual(t, shape{gateways: 3}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		var peers []*peer
		for _, n := range c.nodes {
			p, _ := n.walkIn(roomID, "")
			peers = append(peers, p)
		}
		const said = 300
		published := make(chan struct{})
		go func() {
			defer close(published)
			for i := range said {
				for tries := 0; ; tries++ {
					ctx, cancel := context.WithTimeout(context.Background(), time.Second)
					req := publishRequest(roomID, fmt.Sprint(i))
					req.MessageId = fmt.Sprint(i)
					_, err := c.api.Publish(ctx, req)
					cancel()
					if err == nil {
						break
					}
					if tries > 20 {
						t.Error(err)
						return
					}
					time.Sleep(100 * time.Millisecond)
				}
				if i%60 == 30 {
					c.link(fmt.Sprintf("gateway-%d", i/60%3+1), "redis").Cut()
				}
				if i == 200 {
					c.partition("gateway-2", "redis", true)
					time.AfterFunc(6*time.Second, func() { c.partition("gateway-2", "redis", false) })
				}
				time.Sleep(30 * time.Millisecond)
			}
		}()
		for n, p := range peers {
			last, heard := int64(n+1), 0
			for heard < said {
				f := p.next()
				if f.Seq != last+1 {
					t.Fatalf("peer %d: got %s behind %d", n, show(f), last)
				}
				last = f.Seq
				if f.Type == wire.TypeMessage {
					if want := fmt.Sprintf(`"%d"`, heard); string(f.Body) != want {
						t.Fatalf("peer %d: got %s, want %s", n, show(f), want)
					}
					heard++
				}
			}
			p.sync()
		}
		<-published
	})
}

// What was published while the gateway was cut off arrives even if nothing is published after
// it.
func TestLastEntryBeforeTheSubscriptionIsBackArrives(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		p, _ := c.nodes[0].walkIn(roomID, "")
		c.partition("gateway-1", "redis", true)
		c.publish(roomID, 1, 3)
		c.partition("gateway-1", "redis", false)
		p.heard("1")
		p.heard("2")
		p.heard("3")
	})
}

// If the notice of a takeover is lost, the next renewal tells of the takeover.
func TestTakeoverDuringABreakIsNoticed(t *testing.T) {
	virtual(t, shape{gateways: 2}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{Capacity: 1})
		_, token := c.user("")
		old, _ := c.nodes[0].walkIn(roomID, token)
		c.partition("gateway-1", "redis", true)
		p, _ := c.nodes[1].walkIn(roomID, token)
		old.ends(wire.CloseReplaced)
		p.sync()
		c.occupied(roomID, 1)
	})
}

// The same holds for a removal. Otherwise the removed member would come back.
func TestRemovalDuringABreakIsNoticed(t *testing.T) {
	virtual(t, shape{gateways: 2}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		other, _ := c.nodes[1].walkIn(roomID, "")
		p, joined := c.nodes[0].walkIn(roomID, "")
		other.expect(wire.TypeMemberJoined)
		c.partition("gateway-1", "redis", true)
		if _, err := c.api.RemoveMember(t.Context(), &roomv1.RemoveMemberRequest{RoomId: roomID, UserId: joined.UserID}); err != nil {
			t.Fatal(err)
		}
		p.ends(wire.CloseRemoved)
		if f := other.expect(wire.TypeMemberLeft); f.Reason != wire.ReasonRemoved {
			t.Errorf("left by %s", f.Reason)
		}
	})
}

func TestCrashedGatewaysSeatsAreFreeWithin17Seconds(t *testing.T) {
	virtual(t, shape{gateways: 2}, func(t *testing.T, c *cluster) {
		shared, alone := c.room(roomSpec{}), c.room(roomSpec{})
		watcher, _ := c.nodes[1].walkIn(shared, "")
		c.nodes[0].walkIn(shared, "")
		c.nodes[0].walkIn(alone, "")
		watcher.expect(wire.TypeMemberJoined)
		for _, to := range []string{"redis", "rooms-1"} {
			c.partition("gateway-1", to, true)
		}
		began := time.Now()
		f := watcher.expect(wire.TypeMemberLeft)
		if f.Reason != wire.ReasonLost || time.Since(began) > 17*time.Second {
			t.Fatalf("got %s after %v", show(f), time.Since(began))
		}
		watcher.quiet(2 * time.Second)
		if _, status := c.nodes[1].get(alone); status != 404 {
			t.Fatalf("GET answered %d", status)
		}
	})
}
