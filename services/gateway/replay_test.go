package gateway_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
	"github.com/anteroom-chat/anteroom/services/gateway"
)

// replaying makes a room of 201 entries and a member that rejoins and missed all but the
// first. They are too many to be sent at once.
func (c *cluster) replaying() (roomID string, slow *peer) {
	c.t.Helper()
	roomID = c.room(roomSpec{})
	_, token := c.user("")
	p, joined := c.nodes[0].walkIn(roomID, token) // seq 1
	p.cut()
	body := strings.Repeat("x", 8<<10)
	for range 200 {
		_, err := c.api.Publish(context.Background(), publishRequest(roomID, body))
		must(c.t, err)
	}
	slow = c.nodes[0].open("/chat")
	slow.join(wire.ClientFrame{RoomID: roomID, Identity: token, After: &wire.Position{Epoch: joined.Epoch, Seq: 1}})
	return roomID, slow
}

// While a slow reader gets its replay, more is published to the room than history holds.
func TestReplayThatHistoryOutranGoesOnBehindAGap(t *testing.T) {
	virtual(t, shape{configure: unlimited}, func(t *testing.T, c *cluster) {
		roomID, slow := c.replaying()
		c.publish(roomID, 202, 1_350)
		last := int64(1)
		gaps := 0
		for last < 1_350 {
			switch f := slow.next(); {
			case f.Type == wire.TypeGap && f.GapFrom == last+1 && f.GapTo > last:
				last = f.GapTo
				gaps++
			case f.Type == wire.TypeMessage && f.Seq == last+1:
				last = f.Seq
			default:
				t.Fatalf("got %s %d behind %d", f.Type, f.Seq, last)
			}
		}
		if gaps != 1 {
			t.Fatalf("%d gaps, want 1", gaps)
		}
		slow.sync()
	})
}

// lately is a room service that calls then once, after it has confirmed a join of "late".
type lately struct {
	roomv1.RoomServiceClient
	once *sync.Once
	then func()
}

func (l lately) ConfirmJoin(ctx context.Context, req *roomv1.ConfirmJoinRequest, options ...grpc.CallOption) (*roomv1.ConfirmJoinResponse, error) {
	resp, err := l.RoomServiceClient.ConfirmJoin(ctx, req, options...)
	if req.GetNickname() == "late" {
		l.once.Do(l.then)
	}
	return resp, err
}

func TestReplayThatCannotBegin(t *testing.T) {
	for name, test := range map[string]struct {
		then func(c *cluster, roomID string)
		code wire.Code
		ends wire.CloseCode
	}{
		"the room is deleted": {
			func(c *cluster, roomID string) {
				_, err := c.api.DeleteRoom(context.Background(), &roomv1.DeleteRoomRequest{RoomId: roomID})
				must(c.t, err)
			}, wire.RoomNotFound, wire.CloseRoomNotFound,
		},
		"Redis is out of reach": {
			func(c *cluster, _ string) { c.link("gateway-1", "redis").Stall(true) }, wire.Unavailable, wire.CloseUnavailable,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var c *cluster
			var roomID string
			l := lately{once: new(sync.Once), then: func() { test.then(c, roomID) }}
			configure := func(cfg *gateway.Config) {
				l.RoomServiceClient = cfg.Rooms
				cfg.Rooms = l
			}
			virtual(t, shape{configure: configure}, func(t *testing.T, started *cluster) {
				c = started
				roomID = c.room(roomSpec{})
				_, token := c.user("late")
				_, joined := c.nodes[0].walkIn(roomID, "")
				p := c.nodes[0].open("/chat")
				p.sendJoin(wire.ClientFrame{RoomID: roomID, Identity: token, After: &wire.Position{Epoch: joined.Epoch, Seq: joined.Seq - 1}})
				p.refusal(test.code)
				p.ends(test.ends)
			})
		})
	}
}

func TestReplayOfARoomThatIsDeletedMeanwhileEndsWith4442(t *testing.T) {
	virtual(t, shape{configure: unlimited}, func(t *testing.T, c *cluster) {
		roomID, slow := c.replaying()
		_, err := c.api.DeleteRoom(context.Background(), &roomv1.DeleteRoomRequest{RoomId: roomID})
		must(t, err)
		for seq := int64(2); ; seq++ {
			f, err := slow.receiveFrame(time.Now().Add(time.Minute))
			var end *closed
			if errors.As(err, &end) && end.code == int(wire.CloseRoomDeleted) && seq < 201 {
				return
			}
			must(t, err)
			if f.Type != wire.TypeMessage || f.Seq != seq {
				t.Fatalf("got %s, want seq %d", show(f), seq)
			}
		}
	})
}
