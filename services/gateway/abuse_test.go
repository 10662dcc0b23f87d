package gateway_test

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/gateway"
	"github.com/anteroom-chat/anteroom/services/gateway/httpapi"
)

// pour writes frames again and again until the gateway takes no more, and then closes the
// returned channel.
func (p *peer) pour(frames []byte) <-chan struct{} {
	ended := make(chan struct{})
	chunk := bytes.Repeat(frames, max(1, 4096/len(frames)))
	go func() {
		defer close(ended)
		for {
			if _, err := p.conn.Write(chunk); err != nil {
				return
			}
		}
	}()
	return ended
}

// tally reads up to the close frame and counts the frames by opcode.
func (p *peer) tally() (frames map[byte]int, code int) {
	p.t.Helper()
	frames = make(map[byte]int)
	for {
		f, err := p.readFrame(deadline())
		if err != nil {
			p.t.Fatalf("no close frame behind %v: %v", frames, err)
		}
		if f.op == opClose {
			return frames, int(f.payload[0])<<8 | int(f.payload[1])
		}
		frames[f.op]++
	}
}

// What a peer sends besides messages is read at FRAME_RATE, and ends the socket after 10 s.
func TestFloodsAreReadNoFasterThanTheirRateAndCloseWith4429(t *testing.T) {
	ping := encodeFrame(final|opPing, nil)
	for name, attack := range map[string]struct{ first, frames []byte }{
		"pings":                  {nil, ping},
		"large pings":            {nil, encodeFrame(final|opPing, make([]byte, 125))},
		"pongs":                  {nil, encodeFrame(final|opPong, nil)},
		"PING":                   {nil, encodeFrame(final|opText, []byte(`{"type":"PING"}`))},
		"messages":               {nil, encodeFrame(final|opText, []byte(`{"type":"MESSAGE","body":1}`))},
		"fragments of a byte":    {encodeFrame(opText, nil), encodeFrame(opContinuation, []byte("x"))},
		"fragments of nothing":   {encodeFrame(opText, nil), encodeFrame(opContinuation, nil)},
		"pings among fragments":  {encodeFrame(opText, nil), append(encodeFrame(opContinuation, nil), ping...)},
		"small fragmented PINGs": {nil, append(encodeFrame(opText, []byte(`{"type":`)), encodeFrame(final|opContinuation, []byte(`"PING"}`))...)},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, shape{}, func(t *testing.T, c *cluster) {
				honest, _ := c.nodes[0].walkIn(c.room(roomSpec{}), "")
				p, _ := c.nodes[0].walkIn(c.room(roomSpec{}), "")
				began := time.Now()
				p.raw(attack.first)
				poured := p.pour(attack.frames)
				meanwhile := make(chan struct{})
				go func() {
					defer close(meanwhile)
					for i := range 20 {
						honest.say("", fmt.Sprint(i))
						honest.heard(fmt.Sprint(i))
						time.Sleep(500 * time.Millisecond)
					}
				}()
				frames, code := p.tally()
				took := time.Since(began)
				p.cut()
				<-poured
				<-meanwhile
				if code != int(wire.CloseRateLimited) {
					t.Errorf("closed with %d", code)
				}
				if took < wire.FloodPatience || took > wire.FloodPatience+2*time.Second {
					t.Errorf("closed after %v", took)
				}
				// 50 at once and 100/s; messages that are allowed come on top.
				if most := 50 + 100*12 + 40 + 20*12; frames[opPong] > most || frames[opText] > most {
					t.Errorf("%d pongs and %d frames came back, at most %d should", frames[opPong], frames[opText], most)
				}
				c.nodes[0].walkIn(c.room(roomSpec{}), "") // the gateway still works
			})
		})
	}
}

// What comes in one piece with the handshake becomes the buffer that the socket is read
// through.
func TestAFloodThatBeginsInTheHandshakeIsReadNoFasterEither(t *testing.T) {
	virtual(t, shape{}, func(t *testing.T, c *cluster) {
		ping := encodeFrame(final|opPing, nil)
		p, resp := c.nodes[0].try("/chat?roomId="+c.room(roomSpec{}), nil, bytes.Repeat(ping, 600))
		if p == nil {
			t.Fatalf("answered %s", resp.Status)
		}
		poured := p.pour(ping)
		frames, code := p.tally()
		p.cut()
		<-poured
		if most := 600 + 100*12; code != int(wire.CloseRateLimited) || frames[opPong] > most {
			t.Errorf("%d pongs came back, at most %d should, and it was closed with %d", frames[opPong], most, code)
		}
	})
}

func TestBurstsOfControlFramesAndFragmentsAreNoFlood(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		p, _ := c.nodes[0].walkIn(c.room(roomSpec{}), "")
		p.mute = true
		p.raw(bytes.Repeat(encodeFrame(final|opPing, []byte("x")), 150))
		for range 150 { // 50 at once, 100 within a second
			f, err := p.readFrame(deadline())
			for err == nil && f.op == opPing {
				f, err = p.readFrame(deadline())
			}
			if err != nil || f.op != opPong || string(f.payload) != "x" {
				t.Fatalf("got %v, %v", f, err)
			}
		}
		// The largest message in the smallest pieces that are not counted.
		text := []byte(`{"type":"MESSAGE","body":"` + string(bytes.Repeat([]byte("x"), 15<<10)) + `"}`)
		for range 39 {
			op := byte(opText)
			for rest := text; len(rest) > 0; op = opContinuation {
				n := min(1<<10, len(rest))
				if len(rest) == n {
					op |= final
				}
				p.raw(encodeFrame(op, rest[:n]))
				rest = rest[n:]
			}
			p.expect(wire.TypeMessage)
		}
		p.sync()
	})
}

// A message that does not end counts as silence, even if bytes trickle in, or control frames
// come between its fragments.
func TestMessageThatDoesNotEndIsSilence(t *testing.T) {
	for name, next := range map[string][]byte{
		"fragments":              encodeFrame(opContinuation, []byte("x")),
		"fragments and pings":    append(encodeFrame(opContinuation, nil), encodeFrame(final|opPing, nil)...),
		"fragments and pongs":    append(encodeFrame(opContinuation, nil), encodeFrame(final|opPong, nil)...),
		"bytes of a large frame": {0},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, shape{}, func(t *testing.T, c *cluster) {
				p, _ := c.nodes[0].walkIn(c.room(roomSpec{}), "")
				began := time.Now()
				if name == "bytes of a large frame" {
					p.raw(encodeFrame(final|opText, make([]byte, 1000))[:10])
				} else {
					p.raw(encodeFrame(opText, []byte("{")))
				}
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					for range 12 {
						time.Sleep(5 * time.Second)
						p.raw(next)
					}
				}()
				for {
					f, err := p.readFrame(began.Add(time.Minute))
					if err != nil {
						break
					}
					if f.op == opClose {
						t.Fatalf("got a close frame %q", f.payload)
					}
				}
				if took := time.Since(began); took < wire.PeerSilence || took > wire.PeerSilence+2*time.Second {
					t.Errorf("cut off after %v", took)
				}
				<-ended
			})
		})
	}
}

func TestSocketsAboveTheMostGet503AndRetryAfter(t *testing.T) {
	both(t, shape{configure: func(cfg *gateway.Config) { cfg.MaxSockets = 2 }}, func(t *testing.T, c *cluster) {
		n := c.nodes[0]
		roomID := c.room(roomSpec{})
		honest, _ := n.walkIn(roomID, "")
		idle := n.open("/chat")
		for range 3 {
			p, resp := n.try("/chat", nil, nil)
			if p != nil || resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") != "1" {
				t.Fatalf("the third socket got %v", resp)
			}
		}
		honest.say("", "still here")
		honest.heard("still here")
		idle.hangUp(1000)
		for until := deadline(); ; time.Sleep(10 * time.Millisecond) {
			if p, _ := n.try("/chat", nil, nil); p != nil {
				break
			}
			if time.Now().After(until) {
				t.Fatal("no socket is taken though one has ended")
			}
		}
	})
}

func TestAddressThatConnectsTooOftenGets429AndOthersDoNot(t *testing.T) {
	rate := httpapi.RateLimit{PerSecond: 0.1, Burst: 2, TrustProxy: true}
	both(t, shape{configure: func(cfg *gateway.Config) { cfg.Wait = rate.Wait() }}, func(t *testing.T, c *cluster) {
		n := c.nodes[0]
		from := func(address string) (*peer, *http.Response) {
			return n.try("/chat", http.Header{"X-Forwarded-For": {"192.0.2.9, " + address}}, nil)
		}
		for range 2 {
			if p, resp := from("192.0.2.1"); p == nil {
				t.Fatalf("answered %s", resp.Status)
			}
		}
		if p, resp := from("192.0.2.1"); p != nil || resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != "10" {
			t.Fatalf("the third one got %v", resp)
		}
		p, resp := from("192.0.2.2")
		if p == nil {
			t.Fatalf("another address got %s", resp.Status)
		}
		p.join(wire.ClientFrame{RoomID: c.room(roomSpec{})})
	})
}

// A peer that closes its sending side is gone: its socket ends at once.
func TestHalfClosedSocketsEndAtOnce(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		silent := c.nodes[0].open("/chat")
		member, _ := c.nodes[0].walkIn(c.room(roomSpec{}), "")
		amid, _ := c.nodes[0].walkIn(c.room(roomSpec{}), "")
		amid.raw(encodeFrame(opText, []byte("{")))
		for _, p := range []*peer{silent, member, amid} {
			must(t, p.conn.(interface{ CloseWrite() error }).CloseWrite())
			began := time.Now()
			if code := p.end(); code != 1006 {
				t.Errorf("closed with %d", code)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("ended after %v", took)
			}
		}
	})
}
