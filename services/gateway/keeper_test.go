package gateway

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
)

// renewals counts the sessions whose leases are renewed.
type renewals struct {
	roomv1.RoomServiceClient
	sessions int
}

func (r *renewals) RenewLeases(_ context.Context, req *roomv1.RenewLeasesRequest, _ ...grpc.CallOption) (*roomv1.RenewLeasesResponse, error) {
	r.sessions += len(req.GetSessions())
	return &roomv1.RenewLeasesResponse{}, nil
}

// What broke off while a gateway stood still is being read of only when it goes on.
func TestLeasesAreRenewedATickAfterTheProcessStoodStill(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		calls := &renewals{}
		g := &Gateway{cfg: Config{Rooms: calls}, hub: st.shard.hub, metrics: newMetrics(nil)}
		k := newKeeper(g)
		k.ticked = g.hub.clock()
		for turn := range renewTurns {
			m := st.join()
			m.g, m.renewTurn = g, turn
			m.renewedAt(g.hub.clock())
			m.hear()
			k.add(m.session)
		}
		for _, step := range []struct {
			pause time.Duration
			want  int
		}{
			{keeperTick, 1},
			{2 * keeperTick, 1}, // late, as ticks are on a busy machine
			{2*keeperTick + 1, 0},
			{keeperTick, renewTurns},
			{keeperTick, 1},
			{time.Second + 1, 0},
			{time.Second + 1, renewTurns}, // the machine is that slow
		} {
			calls.sessions = 0
			time.Sleep(step.pause)
			k.tick(t.Context(), 0)
			synctest.Wait()
			if calls.sessions != step.want {
				t.Errorf("%v after the last tick, %d leases were renewed, want %d", step.pause, calls.sessions, step.want)
			}
		}
	})
}
