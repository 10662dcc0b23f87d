package e2e

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
)

func TestAUserWhoJoinsElsewhereTakesTheOwnSeatAlong(t *testing.T) {
	t.Parallel()
	v := start(t, cluster.Options{})
	room := v.room(t, client.RoomSpec{Capacity: 2}) // full with these two, so only a takeover works
	ann := v.identity(t, "Ann")
	older := v.join(t, v.Gateways[0].URL(), room.RoomID, ann)
	watcher := v.join(t, v.Gateways[1].URL(), room.RoomID, v.identity(t, "Watcher"))

	newer := v.join(t, v.Gateways[2].URL(), room.RoomID, ann)
	wantClose(t, older, soon, wire.CloseReplaced)
	wantNext(t, newer, watcher, "after the takeover")
	v.wantOccupied(t, room.RoomID, 2)

	// The seat is taken over while the gateway of its session is paused. The LEAVE of that
	// session, which the gateway reads when it wakes, must not free the seat.
	must(t, v.Gateways[2].Pause())
	must(t, newer.SendRaw(within(t, soon), []byte(`{"type":"LEAVE"}`)))
	newest := v.join(t, v.Gateways[0].URL(), room.RoomID, ann)
	must(t, v.Gateways[2].Resume())
	wantClose(t, newer, soon, wire.CloseReplaced, wire.CloseNormal)
	wantNext(t, newest, watcher, "after the late end")
	v.wantOccupied(t, room.RoomID, 2)
}

// A user's join gets stuck at a gateway that stands still. The user gives up and joins through
// another gateway. Afterwards the old join must not take the seat over.
func TestAJoinThatWasGivenUpTakesNothingOverLater(t *testing.T) {
	t.Parallel()
	v := start(t, cluster.Options{})
	room := v.room(t, client.RoomSpec{Capacity: 3})
	v.join(t, v.Gateways[2].URL(), room.RoomID, v.identity(t, "Witness"))
	ann, stuck := v.identity(t, "Ann"), v.Gateways[0]
	must(t, stuck.Pause())
	for gaveUp, tries := false, 0; !gaveUp; tries++ { // HAProxy sends only some joins to this gateway
		if tries == 10 {
			t.Fatal("no join came to the gateway that stands still")
		}
		s, err := v.Join(within(t, time.Second), client.JoinOptions{RoomID: room.RoomID, Identity: ann.Identity, Via: client.ViaQuery})
		if gaveUp = errors.Is(err, context.DeadlineExceeded); !gaveUp {
			must(t, err)
			must(t, s.Leave(within(t, soon)))
		}
	}
	live := v.join(t, v.Gateways[1].URL(), room.RoomID, ann)
	must(t, stuck.Resume())
	next := v.join(t, stuck.URL(), room.RoomID, v.identity(t, "Next")) // after the old join
	receive(t, live, soon, wire.TypeMemberJoined)
	wantNext(t, next, live, "after the join that was given up")
	v.wantOccupied(t, room.RoomID, 3)
}

// When the gateway wakes, its leases have ended, and the notices of the takeovers wait for it
// to read. It must close these sessions with 4440: a client that came back after another code
// would take the seat from the newer session.
func TestAGatewayThatStoodStillTellsThoseWhoWereReplacedMeanwhile(t *testing.T) {
	t.Parallel()
	v := start(t, cluster.Options{})
	room := v.room(t, client.RoomSpec{Capacity: 5})
	var older []*client.Session
	var users []client.Identity
	for range 5 {
		users = append(users, v.identity(t, ""))
		older = append(older, v.join(t, v.Gateways[0].URL(), room.RoomID, users[len(users)-1]))
	}
	must(t, v.Gateways[0].Pause())
	over := time.After(wire.Lease + 2*time.Second)
	for _, who := range users {
		v.join(t, v.Gateways[1].URL(), room.RoomID, who)
	}
	<-over // the gateway stands still until then
	must(t, v.Gateways[0].Resume())
	for _, s := range older {
		wantClose(t, s, soon, wire.CloseReplaced)
	}
	v.wantOccupied(t, room.RoomID, 5)
}

func (v *venue) wantOccupied(t *testing.T, roomID string, want int) {
	t.Helper()
	room, err := v.Room(within(t, soon), roomID)
	must(t, err)
	if room.Occupied != want || room.Reserved != 0 {
		t.Errorf("%d seats are occupied and %d reserved, want %d and 0", room.Occupied, room.Reserved, want)
	}
}
