package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
	"github.com/anteroom-chat/anteroom/services/gateway"
)

func TestOwnJoinIsNotSentAndTheLogGoesOnBehindJoined(t *testing.T) {
	both(t, shape{gateways: 2}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		a, joined := c.nodes[0].walkIn(roomID, "")
		a.say("m-1", "hello")
		f := a.expect(wire.TypeMessage)
		if f.Seq != joined.Seq+1 || f.ID != "m-1" || f.From.UserID != joined.UserID || string(f.Body) != `"hello"` {
			t.Fatalf("the echo is %s", show(f))
		}
		if age := time.Since(f.Time); age < -time.Second || age > time.Minute {
			t.Fatalf("time is %v, now it is %v", f.Time, time.Now())
		}
		b, second := c.nodes[1].walkIn(roomID, "")
		if second.Seq != 3 || second.Occupied != 2 || len(second.Members) != 2 {
			t.Fatalf("JOINED is %s", show(second))
		}
		if f := a.expect(wire.TypeMemberJoined); f.Seq != 3 || f.Occupied != 2 || f.Member.UserID != second.UserID {
			t.Fatalf("got %s", show(f))
		}
		b.say("", "there")
		for _, p := range []*peer{a, b} {
			if f := p.heard("there"); f.Seq != 4 || f.ID != "" {
				t.Fatalf("got %s", show(f))
			}
		}
	})
}

func TestEveryGatewayShowsTheSameSeqs(t *testing.T) {
	both(t, shape{gateways: 3, rooms: 2}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		var peers []*peer
		for _, n := range c.nodes {
			p, _ := n.walkIn(roomID, "")
			peers = append(peers, p)
		}
		for i, p := range peers {
			for range len(peers) - 1 - i {
				p.expect(wire.TypeMemberJoined)
			}
		}
		const each = 10
		for i := range each {
			for n, p := range peers {
				p.say("", fmt.Sprint(n, "-", i))
			}
		}
		var want []wire.ServerFrame
		for n, p := range peers {
			var got []wire.ServerFrame
			for range each * len(peers) {
				got = append(got, p.expect(wire.TypeMessage))
			}
			for i, f := range got {
				if f.Seq != int64(len(peers)+1+i) {
					t.Fatalf("peer %d: frame %d has seq %d", n, i, f.Seq)
				}
				if n > 0 && (string(f.Body) != string(want[i].Body) || !f.Time.Equal(want[i].Time)) {
					t.Fatalf("peer %d got %s, the first one %s", n, show(f), show(want[i]))
				}
			}
			want = got
		}
	})
}

func TestBodiesArriveAsTheyWereSent(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		p, _ := c.nodes[0].walkIn(c.room(roomSpec{}), "")
		for _, body := range []string{
			`null`, `0`, `-1.5e300`, `""`, `"\u0000 \ud83d\ude00 <&>"`, `[]`, `{}`, `{"a":[1,{"b":null}],"type":"JOINED"}`,
			`"` + "\u2028 ünï" + `"`, `12345678901234567890`, `true`, "[ 1 ,\n2 ]",
		} {
			p.text(`{"type":"MESSAGE","body":` + body + `}`)
			raw, err := p.receive(deadline())
			must(t, err)
			var got struct{ Body json.RawMessage }
			must(t, json.Unmarshal(raw, &got))
			if string(got.Body) != body {
				t.Errorf("sent %s, got %s", body, got.Body)
			}
		}
	})
}

// A large message must not close members who read as fast as they can.
func TestTheLargestMessagesReachAllMembers(t *testing.T) {
	const largest = 1 << 20
	both(t, shape{gateways: 2, configure: func(cfg *gateway.Config) { cfg.MaxFrameBytes = largest }}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{Capacity: 3, Presence: "count"})
		a, _ := c.nodes[0].walkIn(roomID, "")
		b, _ := c.nodes[0].walkIn(roomID, "")
		other, _ := c.nodes[1].walkIn(roomID, "")
		body := strings.Repeat("x", largest-100)
		for range 3 {
			a.say("", body)
			for _, p := range []*peer{a, b, other} {
				p.heard(body)
			}
		}
	})
}

func TestTakeoverOnAnotherGatewayReplacesWithoutALeaveOrAJoin(t *testing.T) {
	both(t, shape{gateways: 2}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{Capacity: 2})
		watcher, _ := c.nodes[0].walkIn(roomID, "")
		_, token := c.user("Ada")
		old, first := c.nodes[0].walkIn(roomID, token)
		watcher.expect(wire.TypeMemberJoined)
		again, second := c.nodes[1].walkIn(roomID, token)
		if second.Occupied != 2 || second.SessionID == first.SessionID || second.Seq != first.Seq {
			t.Fatalf("JOINED is %s, before %s", show(second), show(first))
		}
		old.ends(wire.CloseReplaced)
		c.occupied(roomID, 2)
		again.say("", "still here")
		again.heard("still here")
		watcher.heard("still here") // with no MEMBER_LEFT or MEMBER_JOINED before it
		again.say("", "and here")
		again.heard("and here")
	})
}

func TestTakeoverByPermitOnTheSameGateway(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{Capacity: 1})
		_, token := c.user("")
		old, _ := c.nodes[0].walkIn(roomID, token)
		p := c.nodes[0].open(query("permit", c.permit(roomID, token)))
		p.expect(wire.TypeJoined)
		old.ends(wire.CloseReplaced)
		c.occupied(roomID, 1)
		p.sync()
	})
}

func TestLeaveClosesWith1000AndTheRoomIsGoneAtOnce(t *testing.T) {
	both(t, shape{gateways: 2}, func(t *testing.T, c *cluster) {
		roomID, a, b, joined := c.pair()
		b.text(`{"type":"LEAVE"}`)
		b.ends(wire.CloseNormal)
		c.occupied(roomID, 1)
		f := a.expect(wire.TypeMemberLeft)
		if f.Seq != 3 || f.Reason != wire.ReasonLeft || f.Occupied != 1 || f.Member.UserID != joined.UserID {
			t.Fatalf("got %s", show(f))
		}
		a.text(`{"type":"LEAVE"}`)
		a.ends(wire.CloseNormal)
		c.gone(roomID)
	})
}

func TestWhatIsSaidBeforeLeaveStandsInTheLog(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		a, _ := c.nodes[0].walkIn(roomID, "")
		for _, leave := range []func(*peer){
			func(p *peer) { p.text(`{"type":"LEAVE"}`) },
			func(p *peer) { p.raw(encodeFrame(final|opClose, []byte{0x03, 0xe8})) },
		} {
			b, _ := c.nodes[0].walkIn(roomID, "")
			a.expect(wire.TypeMemberJoined)
			for range 20 {
				b.say("", "bye")
			}
			leave(b)
			if code := b.end(); code != 1000 {
				t.Fatalf("closed with %d", code)
			}
			for range 20 {
				a.heard("bye")
			}
			a.expect(wire.TypeMemberLeft)
		}
	})
}

func TestCloseByTheClientFreesTheSeatBeforeItIsAnswered(t *testing.T) {
	both(t, shape{gateways: 2}, func(t *testing.T, c *cluster) {
		for _, code := range []int{1000, 1001, 0} {
			roomID := c.room(roomSpec{})
			p, _ := c.nodes[0].walkIn(roomID, "")
			p.hangUp(code)
			c.gone(roomID)
		}
	})
}

func TestOldSocketsLateEndFreesNothing(t *testing.T) {
	both(t, shape{gateways: 2}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{Capacity: 1})
		_, token := c.user("")
		old, _ := c.nodes[0].walkIn(roomID, token)
		// The old gateway does not hear of the takeover before its socket ends.
		c.link("gateway-1", "redis").StallWays(false, true)
		p, _ := c.nodes[1].walkIn(roomID, token)
		old.text(`{"type":"LEAVE"}`)
		old.end()
		c.link("gateway-1", "redis").Stall(false)
		c.occupied(roomID, 1)
		p.say("", "mine")
		p.heard("mine")
	})
}

func TestRemoveMemberClosesWith4441(t *testing.T) {
	both(t, shape{gateways: 2}, func(t *testing.T, c *cluster) {
		roomID, a, b, joined := c.pair()
		_, err := c.api.RemoveMember(context.Background(), &roomv1.RemoveMemberRequest{RoomId: roomID, UserId: joined.UserID})
		must(t, err)
		b.ends(wire.CloseRemoved)
		f := a.expect(wire.TypeMemberLeft)
		if f.Reason != wire.ReasonRemoved || f.Occupied != 1 || f.Member.UserID != joined.UserID {
			t.Fatalf("got %s", show(f))
		}
	})
}

func TestLeaveByAnotherCallerClosesWith4504(t *testing.T) {
	virtual(t, shape{gateways: 2}, func(t *testing.T, c *cluster) {
		roomID, a, b, joined := c.pair()
		began := time.Now()
		_, err := c.api.Leave(context.Background(), &roomv1.LeaveRequest{RoomId: roomID, SessionId: joined.SessionID, Reason: roomv1.LeaveReason_LEAVE_REASON_LEFT})
		must(t, err)
		b.expect(wire.TypeMemberLeft)
		b.ends(wire.CloseLeaseLost)
		if d := time.Since(began); d > 100*time.Millisecond {
			t.Errorf("closed after %v, as a renewal would have", d)
		}
		a.expect(wire.TypeMemberLeft)
		c.occupied(roomID, 1)
	})
}

func TestDeleteRoomClosesEverySessionWith4442(t *testing.T) {
	both(t, shape{gateways: 2}, func(t *testing.T, c *cluster) {
		roomID, a, b, _ := c.pair()
		_, err := c.api.DeleteRoom(context.Background(), &roomv1.DeleteRoomRequest{RoomId: roomID})
		must(t, err)
		a.ends(wire.CloseRoomDeleted)
		b.ends(wire.CloseRoomDeleted)
		c.gone(roomID)
	})
}

func TestRoomMadeAgainIsAnotherRoomForSocketsOfItsOldLife(t *testing.T) {
	both(t, shape{gateways: 2}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{RoomID: "again"})
		old, first := c.nodes[0].walkIn(roomID, "")
		// The gateway does not hear of the deletion.
		c.link("gateway-1", "redis").StallWays(false, true)
		_, err := c.api.DeleteRoom(context.Background(), &roomv1.DeleteRoomRequest{RoomId: roomID})
		must(t, err)
		_, err = c.api.CreateRoom(context.Background(), &roomv1.CreateRoomRequest{RoomId: roomID, Capacity: 8})
		must(t, err)
		fresh, second := c.nodes[1].walkIn(roomID, "")
		if second.Epoch == first.Epoch || second.Seq != 1 {
			t.Fatalf("JOINED is %s, before %s", show(second), show(first))
		}
		fresh.say("", "new life")
		fresh.heard("new life")
		c.link("gateway-1", "redis").Cut()
		c.link("gateway-1", "redis").Stall(false)
		old.ends(wire.CloseRoomDeleted) // and gets nothing of the new epoch before it
		third, f := c.nodes[0].walkIn(roomID, "")
		if f.Seq != 3 || len(f.Members) != 2 {
			t.Fatalf("JOINED is %s", show(f))
		}
		fresh.expect(wire.TypeMemberJoined)
		third.say("", "me too")
		third.heard("me too")
		fresh.heard("me too")
	})
}

func TestApplicationsMessagesComeFromSystem(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{})
		p, _ := c.nodes[0].walkIn(roomID, "")
		_, err := c.api.Publish(context.Background(), publishRequest(roomID, "maintenance"))
		must(t, err)
		if f := p.heard("maintenance"); f.From.UserID != wire.SystemUser {
			t.Fatalf("got %s", show(f))
		}
	})
}

func TestManyRoomsAtOnceKeepApart(t *testing.T) {
	c := overTCP(t, shape{gateways: 2, rooms: 2})
	const rooms, members, messages = 8, 4, 15
	var all sync.WaitGroup
	for i := range rooms {
		roomID := c.room(roomSpec{RoomID: fmt.Sprintf("room-%d", i)})
		var peers []*peer
		for m := range members {
			p, _ := c.nodes[m%2].walkIn(roomID, "")
			peers = append(peers, p)
		}
		for m, p := range peers {
			all.Go(func() {
				for k := range messages {
					p.say("", fmt.Sprintf("%s/%d/%d", roomID, m, k))
				}
				last, heard := int64(m+1), 0
				next := make([]int, members)
				for heard < members*messages {
					f, err := p.receiveFrame(deadline())
					if err != nil {
						t.Errorf("%s/%d: %v", roomID, m, err)
						return
					}
					if f.Seq != last+1 {
						t.Errorf("%s/%d: seq %d behind %d", roomID, m, f.Seq, last)
						return
					}
					last = f.Seq
					if f.Type == wire.TypeMessage {
						var from, number int
						if _, err := fmt.Sscanf(string(f.Body), `"`+roomID+`/%d/%d"`, &from, &number); err != nil || number != next[from] {
							t.Errorf("%s/%d: got %s, want number %d: %v", roomID, m, f.Body, next[from], err)
							return
						}
						next[from]++
						heard++
					}
				}
				p.text(`{"type":"LEAVE"}`)
				if code := p.end(); code != 1000 {
					t.Errorf("%s/%d: closed with %d", roomID, m, code)
				}
			})
		}
	}
	all.Wait()
	for i := range rooms {
		if _, status := c.nodes[0].get(fmt.Sprintf("room-%d", i)); status != http.StatusNotFound {
			t.Errorf("room-%d: GET answered %d after all left", i, status)
		}
	}
}
