package gateway_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/gateway"
)

func unlimited(cfg *gateway.Config) { cfg.MessageRate = 0 }

// publish publishes numbered messages of the application.
func (c *cluster) publish(roomID string, from, to int) {
	c.t.Helper()
	for i := from; i <= to; i++ {
		_, err := c.api.Publish(context.Background(), publishRequest(roomID, fmt.Sprint(i)))
		must(c.t, err)
	}
}

// entries waits for exactly the entries from seq from to seq to.
func (p *peer) entries(from, to int64) {
	p.t.Helper()
	for seq := from; seq <= to; seq++ {
		if f := p.next(); f.Seq != seq || f.Type == wire.TypeGap {
			p.t.Fatalf("got %s, want seq %d", show(f), seq)
		}
	}
}

// A message id is remembered for longer than the history of a busy room reaches back.
func TestEchoOfARepeatedMessageThatHistoryHasLostIsThatOfTheFirst(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		_, token := c.user("")
		p, _ := c.nodes[0].walkIn(roomID, token)
		p.say("old", "first")
		first := p.heard("first")
		p.cut()
		c.publish(roomID, 1, 1_001)
		time.Sleep(10 * time.Second)
		again, _ := c.nodes[0].walkIn(roomID, token)
		again.say("old", "first")
		if f := again.heard("first"); f.Seq != first.Seq || !f.Time.Equal(first.Time) || f.ID != "old" {
			t.Fatalf("got %s, first %s", show(f), show(first))
		}
	})
}

// The message was appended, but the gateway did not hear of that, and history no longer has it
// when the gateway reads the log again.
func TestEchoOfARepeatedMessageInAGap(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		p, _ := c.nodes[0].walkIn(roomID, "")
		c.publish(roomID, 1, 1)
		p.heard("1")
		link := c.link("gateway-1", "redis")
		link.StallWays(false, true)
		p.say("mine", "said")
		time.Sleep(100 * time.Millisecond)
		c.partition("gateway-1", "redis", true)
		link.Stall(false)
		c.publish(roomID, 2, 1_001)
		c.partition("gateway-1", "redis", false)
		var gap wire.ServerFrame
		for gap.Type == "" {
			if f := p.next(); f.Type == wire.TypeGap {
				gap = f
			} else if f.Type != wire.TypeError || f.ID != "mine" {
				t.Fatalf("got %s", show(f))
			}
		}
		p.say("mine", "said")
		for {
			f := p.next()
			if f.ID != "mine" {
				continue
			}
			if f.Type != wire.TypeMessage || f.Seq < gap.GapFrom || f.Seq > gap.GapTo {
				t.Fatalf("got %s behind %s", show(f), show(gap))
			}
			return
		}
	})
}

func TestRejoinWithNothingMissed(t *testing.T) {
	both(t, shape{gateways: 2}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		_, token := c.user("")
		p, joined := c.nodes[0].walkIn(roomID, token)
		p.say("", "one")
		seq := p.heard("one").Seq
		p.cut()
		again := c.nodes[1].open("/chat")
		f := again.join(wire.ClientFrame{RoomID: roomID, Identity: token, After: &wire.Position{Epoch: joined.Epoch, Seq: seq}})
		if !f.Recovered || f.Seq != seq || f.Occupied != 1 {
			t.Fatalf("JOINED is %s", show(f))
		}
		again.say("", "two")
		if f := again.heard("two"); f.Seq != seq+1 {
			t.Fatalf("got %s", show(f))
		}
	})
}

func TestRejoinBringsWhatWasMissedAndThenTheLiveEntries(t *testing.T) {
	both(t, shape{gateways: 2}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		_, token := c.user("")
		other, _ := c.nodes[0].walkIn(roomID, "")
		p, joined := c.nodes[0].walkIn(roomID, token)
		p.cut()
		const missed = 150 // more than two pages
		c.publish(roomID, 1, missed)
		other.expect(wire.TypeMemberJoined)
		other.entries(3, 2+missed)
		again := c.nodes[1].open("/chat")
		f := again.join(wire.ClientFrame{RoomID: roomID, Identity: token, After: &wire.Position{Epoch: joined.Epoch, Seq: joined.Seq}})
		if !f.Recovered || f.Seq != 2+missed {
			t.Fatalf("JOINED is %s", show(f))
		}
		other.say("", "live")
		again.entries(3, 2+missed)
		if f := again.heard("live"); f.Seq != 3+missed {
			t.Fatalf("got %s", show(f))
		}
	})
}

func TestRejoinWhereHistoryIsTooShortTellsTheGapExactly(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		_, token := c.user("")
		p, joined := c.nodes[0].walkIn(roomID, token) // seq 1
		p.cut()
		const said = 1_200
		c.publish(roomID, 2, said)
		again := c.nodes[0].open("/chat")
		f := again.join(wire.ClientFrame{RoomID: roomID, Identity: token, After: &wire.Position{Epoch: joined.Epoch, Seq: 1}})
		if f.Recovered || f.Seq != said {
			t.Fatalf("JOINED is %s", show(f))
		}
		if f := again.expect(wire.TypeGap); f.GapFrom != 2 || f.GapTo != said-wire.HistoryEntries {
			t.Fatalf("GAP %d…%d, want 2…%d", f.GapFrom, f.GapTo, said-wire.HistoryEntries)
		}
		again.entries(said-wire.HistoryEntries+1, said)
		again.say("", "live")
		again.heard("live")
	})
}

func TestHistoryIsTenMinutesLong(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		_, token := c.user("")
		p, joined := c.nodes[0].walkIn(roomID, token) // seq 1
		keep, _ := c.nodes[0].walkIn(roomID, "")      // seq 2
		p.cut()
		keep.idle(5*time.Minute, wire.TypeMemberLeft) // seq 3
		c.publish(roomID, 4, 4)
		keep.idle(5*time.Minute+time.Second, wire.TypeMessage)
		again := c.nodes[0].open("/chat")
		f := again.join(wire.ClientFrame{RoomID: roomID, Identity: token, After: &wire.Position{Epoch: joined.Epoch, Seq: 1}})
		if f.Recovered || f.Seq != 5 {
			t.Fatalf("JOINED is %s", show(f))
		}
		if f := again.expect(wire.TypeGap); f.GapFrom != 2 || f.GapTo != 2 { // what is younger is kept
			t.Fatalf("got %s", show(f))
		}
		again.entries(3, 5)
		again.sync()
	})
}

func TestRejoinOfAnotherLifeOfTheRoom(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		c.publish(roomID, 1, 5)
		p := c.nodes[0].open("/chat")
		f := p.join(wire.ClientFrame{RoomID: roomID, After: &wire.Position{Epoch: "another", Seq: 3}})
		if f.Recovered || f.Seq != 6 {
			t.Fatalf("JOINED is %s", show(f))
		}
		if f := p.expect(wire.TypeGap); f.GapFrom != 1 || f.GapTo != 6 {
			t.Fatalf("GAP %d…%d, want 1…6", f.GapFrom, f.GapTo)
		}
		p.say("", "live")
		if f := p.heard("live"); f.Seq != 7 {
			t.Fatalf("got %s", show(f))
		}
	})
}

func TestRejoinAheadOfTheLogIsNotRecovered(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		_, token := c.user("")
		p, joined := c.nodes[0].walkIn(roomID, token)
		p.cut()
		again := c.nodes[0].open("/chat")
		f := again.join(wire.ClientFrame{RoomID: roomID, Identity: token, After: &wire.Position{Epoch: joined.Epoch, Seq: 1 << 40}})
		if f.Recovered || f.Seq != 1 {
			t.Fatalf("JOINED is %s", show(f))
		}
		again.say("", "live")
		if f := again.heard("live"); f.Seq != 2 {
			t.Fatalf("got %s", show(f))
		}
	})
}

// A replay of some MB to a reader of 64 KiB every 4 s takes minutes. That is longer than a
// call, a lease or a peer's silence may last.
func TestLargeReplayToASlowReaderBringsEverythingInOrder(t *testing.T) {
	virtual(t, shape{configure: unlimited}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		_, token := c.user("")
		p, joined := c.nodes[0].walkIn(roomID, token) // seq 1
		p.cut()
		const said = 200
		body := strings.Repeat("x", 10<<10)
		publish := func(n int) {
			for range n {
				_, err := c.api.Publish(context.Background(), publishRequest(roomID, body))
				must(t, err)
			}
		}
		publish(said)
		slow := c.nodes[0].open("/chat")
		f := slow.join(wire.ClientFrame{RoomID: roomID, Identity: token, After: &wire.Position{Epoch: joined.Epoch, Seq: 1}})
		if !f.Recovered || f.Seq != said+1 {
			t.Fatalf("JOINED is %s", show(f))
		}
		for seq := int64(2); seq <= said+3; seq++ {
			if seq%6 == 0 {
				time.Sleep(8 * time.Second)
			}
			if seq == said/2 {
				publish(2) // these come live
			}
			if f := slow.next(); f.Seq != seq || f.Type != wire.TypeMessage {
				t.Fatalf("got seq %d (%s), want %d", f.Seq, f.Type, seq)
			}
		}
		slow.sync()
		c.occupied(roomID, 1)
	})
}

func TestMessageIDUsedTwiceIsDeliveredOnce(t *testing.T) {
	both(t, shape{gateways: 2}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		_, token := c.user("")
		other, _ := c.nodes[1].walkIn(roomID, "")
		p, joined := c.nodes[0].walkIn(roomID, token)
		other.expect(wire.TypeMemberJoined)
		p.say("once", "hello")
		seq := p.heard("hello").Seq
		other.heard("hello")
		p.say("once", "hello")
		p.say("", "next")
		p.heard("next")
		if f := other.heard("next"); f.Seq != seq+1 {
			t.Fatalf("got %s", show(f))
		}
		// Another user may use the same id.
		other.say("once", "mine")
		other.heard("mine")
		p.heard("mine")
		p.cut()

		// A rejoin with history carries the echo; one without gets it again when it repeats.
		again := c.nodes[1].open("/chat")
		again.join(wire.ClientFrame{RoomID: roomID, Identity: token, After: &wire.Position{Epoch: joined.Epoch, Seq: joined.Seq}})
		again.entries(seq, seq+2)
		again.say("once", "hello")
		again.say("", "behind")
		again.heard("behind")
		other.heard("behind")
		again.cut()
		fresh, _ := c.nodes[0].walkIn(roomID, token)
		fresh.say("once", "hello")
		if f := fresh.heard("hello"); f.Seq != seq || f.ID != "once" {
			t.Fatalf("got %s, want seq %d", show(f), seq)
		}
		other.say("", "end")
		other.heard("end") // the echo went to its sender only
	})
}

func TestMessageIDIsFreeAgainAfterTwoMinutes(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		p, _ := c.nodes[0].walkIn(c.room(roomSpec{}), "")
		p.say("id", "first")
		p.heard("first")
		for range 2 { // each use counts
			p.quiet(wire.MessageIDAge - time.Second)
			p.say("id", "no")
		}
		p.quiet(wire.MessageIDAge + time.Second)
		p.say("id", "second")
		p.heard("second")
	})
}

func TestPresenceCountTellsTheLastNumberAndUsesNoSeq(t *testing.T) {
	virtual(t, shape{gateways: 2}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{Capacity: 100, Presence: "count"})
		watcher, joined := c.nodes[0].walkIn(roomID, "")
		if joined.Occupied != 1 || joined.Seq != 0 || len(joined.Members) != 0 {
			t.Fatalf("JOINED is %s", show(joined))
		}
		var others []*peer
		for i := range 30 {
			p, f := c.nodes[i%2].walkIn(roomID, "")
			if f.Occupied != i+2 || len(f.Members) != 0 {
				t.Fatalf("JOINED is %s", show(f))
			}
			others = append(others, p)
			time.Sleep(100 * time.Millisecond)
		}
		c.lastOccupancy(watcher, 31)
		for _, p := range others[:29] {
			p.hangUp(1000)
		}
		c.lastOccupancy(watcher, 2)
		c.lastOccupancy(others[29], 2)
		watcher.say("", "seq begins at one")
		if f := watcher.heard("seq begins at one"); f.Seq != 1 {
			t.Fatalf("got %s", show(f))
		}
	})
}

// lastOccupancy reads OCCUPANCY frames until nothing comes for 3 s. The last one must say want.
func (c *cluster) lastOccupancy(p *peer, want int) {
	c.t.Helper()
	last := -1
	for {
		f, err := p.receiveFrame(time.Now().Add(3 * time.Second))
		if err != nil {
			break
		}
		if f.Type != wire.TypeOccupancy || f.Seq != 0 {
			c.t.Fatalf("got %s", show(f))
		}
		last = f.Occupied
	}
	if last != want {
		c.t.Fatalf("the last OCCUPANCY says %d, want %d", last, want)
	}
}

func TestOccupancyComesAtMostOnceASecond(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{Capacity: 100, Presence: "count"})
		watcher, _ := c.nodes[0].walkIn(roomID, "")
		stop := make(chan struct{})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for {
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
				}
				p, _ := c.nodes[0].walkIn(roomID, "")
				p.hangUp(1000)
			}
		}()
		var at []time.Time
		for range 10 {
			watcher.expect(wire.TypeOccupancy)
			at = append(at, time.Now())
		}
		close(stop)
		<-ended
		for i := 1; i < len(at); i++ {
			if d := at[i].Sub(at[i-1]); d < time.Second {
				t.Fatalf("OCCUPANCY %v behind another", d)
			}
		}
	})
}

func TestTakeoverWherePresenceIsCountChangesNoNumber(t *testing.T) {
	virtual(t, shape{gateways: 2}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{Capacity: 100, Presence: "count"})
		_, token := c.user("")
		old, _ := c.nodes[0].walkIn(roomID, token)
		old.idle(2*time.Second, wire.TypeOccupancy)
		p, f := c.nodes[1].walkIn(roomID, token)
		if f.Occupied != 1 {
			t.Fatalf("JOINED is %s", show(f))
		}
		old.ends(wire.CloseReplaced)
		p.quiet(3 * time.Second)
	})
}

func TestFoldOfTheLogIsTheRosterOfJoined(t *testing.T) {
	both(t, shape{gateways: 2}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{Capacity: 30})
		watcher, first := c.nodes[0].walkIn(roomID, "")
		roster := map[string]bool{first.UserID: true}
		last := first.Seq
		follow := func(to int64) {
			for last < to {
				f := watcher.next()
				if f.Seq != last+1 {
					t.Fatalf("got %s behind %d", show(f), last)
				}
				last = f.Seq
				switch f.Type {
				case wire.TypeMemberJoined:
					roster[f.Member.UserID] = true
				case wire.TypeMemberLeft:
					delete(roster, f.Member.UserID)
				}
				if f.Type != wire.TypeMessage && f.Occupied != len(roster) {
					t.Fatalf("got %s with %d in the roster", show(f), len(roster))
				}
			}
		}
		var in []*peer
		for i := range 20 {
			if i%3 == 2 {
				in[0].hangUp(1000)
				in = in[1:]
			}
			p, f := c.nodes[i%2].walkIn(roomID, "")
			in = append(in, p)
			follow(f.Seq)
			if len(f.Members) != len(roster) || f.Occupied != len(roster) {
				t.Fatalf("JOINED is %s, the fold has %d", show(f), len(roster))
			}
			for _, m := range f.Members {
				if !roster[m.UserID] {
					t.Fatalf("%s is in JOINED, not in the fold", m.UserID)
				}
			}
		}
	})
}

// More members come back than can have a turn at a time, and none of them reads on.
func TestReplaysOfSlowReadersKeepNobodyWaiting(t *testing.T) {
	virtual(t, shape{configure: unlimited}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{Capacity: 100, Presence: "count"})
		first, joined := c.nodes[0].walkIn(roomID, "")
		body := strings.Repeat("x", 10<<10)
		for range 30 {
			first.say("", body)
			first.heard(body)
		}
		after := &wire.Position{Epoch: joined.Epoch}
		for range 70 {
			c.nodes[0].open("/chat").sendJoin(wire.ClientFrame{RoomID: roomID, After: after})
		}
		time.Sleep(100 * time.Millisecond) // until all have begun
		began := time.Now()
		p := c.nodes[0].open("/chat")
		if f := p.join(wire.ClientFrame{RoomID: roomID, After: after}); !f.Recovered || f.Seq != 30 {
			t.Fatalf("JOINED is %s", show(f))
		}
		for seq := int64(1); seq <= 30; {
			f := p.next()
			if f.Type == wire.TypeOccupancy {
				continue
			}
			if f.Seq != seq {
				t.Fatalf("got %s, want seq %d", f.Type, seq)
			}
			seq++
		}
		if d := time.Since(began); d > 5*time.Second {
			t.Fatalf("the replay took %v", d)
		}
	})
}
