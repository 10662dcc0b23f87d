package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
)

// drainedWithin is how long a gateway may take to move its members away.
const drainedWithin = 30 * time.Second

func TestADrainedGatewaysMembersMoveAndMissNothing(t *testing.T) {
	t.Parallel()
	v := start(t, cluster.Options{})
	room := v.room(t, client.RoomSpec{Capacity: 10})
	var members []*client.Member
	for i := range 9 {
		members = append(members, v.enter(t, room.RoomID, fmt.Sprintf("M%d", i)))
	}
	drained := v.Gateways[0]
	onIt := v.sessionsByGateway(t, room.RoomID)[drained.Name]
	if onIt == 0 {
		t.Fatalf("HAProxy gave %s no member", drained.Name)
	}
	slow := v.identity(t, "Slow")
	stays := v.join(t, drained.URL(), room.RoomID, slow) // ignores DRAINING

	talk := make(chan error, 1)
	quiet := make(chan struct{})
	go func() { talk <- talkUntil(t, members, quiet) }()
	visitors := v.traffic(t, v.URL())
	visitors.more(t, 20)

	must(t, drained.Terminate())
	began := time.Now()
	receive(t, stays, soon, wire.TypeDraining)
	answer, err := http.Get(drained.URL() + "/healthz")
	must(t, err)
	must(t, answer.Body.Close())
	if !answer.Close {
		t.Error("a draining gateway keeps the connections on which it is asked")
	}
	wantClose(t, stays, drainedWithin, wire.CloseRestart)
	err = drained.Wait(within(t, drainedWithin+5*time.Second))
	must(t, err) // with status 0
	drain := time.Since(began)
	took(t, fmt.Sprintf("a gateway with %d members drains (30 s)", onIt), drain)
	if drain > drainedWithin {
		t.Errorf("the drain took %v", drain)
	}
	visitors.more(t, 100)
	visitors.stop()
	close(quiet)
	must(t, <-talk)

	last, err := members[0].Send(within(t, soon), "the last word")
	must(t, err)
	moved := 0
	for _, m := range members {
		if wantUnbroken(t, m, last, soon) > 0 {
			moved++
		}
	}
	if moved != onIt {
		t.Errorf("%d members came back, %d were on the gateway", moved, onIt)
	}
	// The seat of the member who did not move was kept too: the room has no other seat free.
	v.join(t, v.URL(), room.RoomID, slow)
	after := v.sessionsByGateway(t, room.RoomID)
	if after[drained.Name] != 0 {
		t.Errorf("the drained gateway still has sessions: %v", after)
	}
	v.wantOccupied(t, room.RoomID, 10)
}

// talkUntil makes all members talk in turn, 50 messages a second, until quiet is closed.
func talkUntil(t *testing.T, members []*client.Member, quiet <-chan struct{}) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-quiet:
			return nil
		case <-t.Context().Done():
			return t.Context().Err()
		case <-tick.C:
		}
		if _, err := members[n%len(members)].Post(n); err != nil {
			return fmt.Errorf("message %d: %w", n, err)
		}
	}
}

// sessionsByGateway returns how many sessions of a room each gateway has, according to Redis.
func (v *venue) sessionsByGateway(t *testing.T, roomID string) map[string]int {
	t.Helper()
	sessions, err := v.redis.HVals(within(t, soon), v.Layout().Keys(roomID).Sessions()).Result()
	must(t, err)
	count := map[string]int{}
	for _, value := range sessions {
		var user, gateway string
		_, err := fmt.Sscan(value, &user, &gateway)
		must(t, err)
		count[gateway]++
	}
	return count
}
