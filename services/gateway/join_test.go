package gateway_test

import (
	"encoding/json"
	"testing"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

func TestThreeWaysToJoin(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		n, roomID := c.nodes[0], c.room(roomSpec{Capacity: 3})
		ada, adaToken := c.user("Ada")
		bob, bobToken := c.user("Bob")
		cyd, cydToken := c.user("")

		permit := n.open(query("permit", c.permit(roomID, adaToken)))
		if f := permit.expect(wire.TypeJoined); f.UserID != ada || f.RoomID != roomID || f.Occupied != 1 || f.Seq != 1 {
			t.Fatalf("by permit: %s", show(f))
		}
		inURL := n.open(query("roomId", roomID, "identity", bobToken, "nickname", "Bobby"))
		if f := inURL.expect(wire.TypeJoined); f.UserID != bob || f.Occupied != 2 || f.Seq != 2 {
			t.Fatalf("by query: %s", show(f))
		}
		frame := n.open("/chat")
		if f := frame.join(wire.ClientFrame{RoomID: roomID, Identity: cydToken}); f.UserID != cyd || f.Occupied != 3 || f.Seq != 3 {
			t.Fatalf("by frame: %s", show(f))
		}
		if f := permit.expect(wire.TypeMemberJoined); f.Member.UserID != bob || f.Member.Nickname != "Bobby" || f.Seq != 2 {
			t.Fatalf("got %s", show(f))
		}
		c.occupied(roomID, 3)
	})
}

func TestJoinedHasExactlyTheFieldsOfTheContract(t *testing.T) {
	both(t, shape{}, func(t *testing.T, c *cluster) {
		n, roomID := c.nodes[0], c.room(roomSpec{Capacity: 3})
		fields := func(f wire.ClientFrame) map[string]json.RawMessage {
			p := n.open("/chat")
			p.sendJoin(f)
			raw, err := p.receive(deadline())
			must(t, err)
			var got map[string]json.RawMessage
			must(t, json.Unmarshal(raw, &got))
			return got
		}
		ada, token := c.user("Ada")
		got := fields(wire.ClientFrame{RoomID: roomID, Identity: token})
		r, _ := n.get(roomID)
		for name, want := range map[string]string{
			"type": `"JOINED"`, "roomId": `"` + roomID + `"`, "epoch": `"` + r.Epoch + `"`, "seq": "1", "userId": `"` + ada + `"`,
			"capacity": "3", "occupied": "1", "recovered": "false", "members": `[{"userId":"` + ada + `","nickname":"Ada"}]`,
		} {
			if string(got[name]) != want {
				t.Errorf("%s is %s, want %s", name, got[name], want)
			}
			delete(got, name)
		}
		if len(got["sessionId"]) < 10 || len(got) != 1 {
			t.Errorf("besides: %s, want sessionId alone", got)
		}
		// A join without an identity gets a new one.
		got = fields(wire.ClientFrame{RoomID: roomID, Nickname: "Nobody"})
		var made, user string
		must(t, json.Unmarshal(got["identity"], &made))
		must(t, json.Unmarshal(got["userId"], &user))
		if id, err := c.signer.Verify(made); err != nil || id.UserID != user || id.Nickname != "Nobody" {
			t.Errorf("the identity made is of %v, %v; want of %s", id, err, user)
		}
		// If presence is count, no members are named.
		counted := c.room(roomSpec{Capacity: 3, Presence: "count"})
		if got = fields(wire.ClientFrame{RoomID: counted}); string(got["members"]) != "[]" || string(got["seq"]) != "0" {
			t.Errorf("members is %s, seq %s; want [], 0", got["members"], got["seq"])
		}
	})
}
