package gateway_test

import (
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

func TestFloodGetsRateLimitedWithIDAndThen4429(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		p, _ := c.nodes[0].walkIn(roomID, "")
		// The burst passes, one more does not.
		for i := range 41 {
			p.say("m"+string(rune('A'+i)), i)
		}
		var echoes, limited int
		for range 41 {
			switch f := p.next(); {
			case f.Type == wire.TypeMessage:
				echoes++
			case f.Code == wire.RateLimited && f.ID == "m"+string(rune('A'+40)):
				limited++
			default:
				t.Fatalf("got %s", show(f))
			}
		}
		if echoes != 40 || limited != 1 {
			t.Fatalf("%d echoes, %d refusals", echoes, limited)
		}
		p.quiet(4 * time.Second) // the flood is over, and a burst is allowed again
		began := time.Now()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for time.Since(began) < 15*time.Second {
				p.say("flood", "x")
				time.Sleep(25 * time.Millisecond)
			}
		}()
		if code := p.endBy(began.Add(14 * time.Second)); code != int(wire.CloseRateLimited) {
			t.Fatalf("closed with %d", code)
		}
		if d := time.Since(began); d < wire.FloodPatience || d > wire.FloodPatience+4*time.Second {
			t.Fatalf("closed after %v", d)
		}
		<-ended
	})
}

func TestSustainedRateIsAllowed(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		p, _ := c.nodes[0].walkIn(c.room(roomSpec{}), "")
		for range 20 * 20 {
			p.say("", "x")
			p.heard("x")
			time.Sleep(50 * time.Millisecond)
		}
	})
}

func TestRateOfZeroIsNoLimit(t *testing.T) {
	virtual(t, shape{configure: unlimited}, func(t *testing.T, c *cluster) {
		p, _ := c.nodes[0].walkIn(c.room(roomSpec{}), "")
		for i := range 600 {
			p.say("", "x")
			if i >= 50 {
				p.heard("x")
			}
		}
	})
}

func TestNoJoinWithinTenSecondsCloses(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		began := time.Now()
		silent := c.nodes[0].open("/chat")
		pinging := c.nodes[0].open("/chat")
		partial := c.nodes[0].open("/chat")
		partial.raw(encodeFrame(final|opText, []byte(`{"type":"JOIN","roomId":"x"}`))[:9])
		for range 9 {
			time.Sleep(time.Second)
			pinging.sync()
		}
		for _, p := range []*peer{silent, pinging, partial} {
			p.ends(wire.CloseJoinTimeout)
			if d := time.Since(began); d < wire.JoinTimeout || d > wire.JoinTimeout+time.Second {
				t.Fatalf("closed after %v", d)
			}
		}
	})
}

func TestJoinJustInTimeKeepsTheSocket(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		p := c.nodes[0].open("/chat")
		p.quiet(wire.JoinTimeout - 10*time.Millisecond)
		p.join(wire.ClientFrame{RoomID: c.room(roomSpec{})})
		p.quiet(time.Minute)
		p.sync()
	})
}
