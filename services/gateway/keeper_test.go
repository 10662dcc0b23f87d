package gateway

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
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

// A gateway that stood still hears of takeovers only when it goes on: those it replaced
// are told so, and do not come back for the seat. Nobody gets anything more meanwhile.
func TestSessionsThatLapsedWhileTheProcessStoodStillHearWhy(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		g := &Gateway{cfg: Config{Rooms: &renewals{}}, hub: st.shard.hub, metrics: newMetrics(nil)}
		k := newKeeper(g)
		k.ticked = g.hub.clock()
		replaced, lost := st.join(), st.join()
		for _, m := range []*member{replaced, lost} {
			m.g = g
			m.renewedAt(g.hub.clock())
			k.add(m.session)
		}
		st.publish(st.append())
		st.step()
		time.Sleep(wire.Lease + time.Second)
		replaced.hear()
		lost.hear()
		st.publish(st.append())
		st.step()
		k.tick(t.Context(), 0)
		st.publish(st.append(), roomlog.Event{Kind: roomlog.KindReplaced, Data: []byte(replaced.id)})
		st.step()
		time.Sleep(keeperTick)
		k.tick(t.Context(), 1)
		st.got(replaced, "E1/1", fmt.Sprint("close ", int(wire.CloseReplaced)))
		st.got(lost, "E1/1", fmt.Sprint("close ", int(wire.CloseLeaseLost)))
	})
}
