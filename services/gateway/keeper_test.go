package gateway

import (
	"context"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

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

// Connections that broke while the gateway was stalled are read only after it goes on.
func TestLeasesAreRenewedATickAfterTheProcessStoodStill(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		calls := &renewals{}
		g := &Gateway{cfg: Config{Rooms: calls}, hub: st.shard.hub, metrics: newMetrics(nil)}
		k := newKeeper(g)
		k.ticked = g.hub.clock()
		for turn := range renewTicks {
			m := st.join()
			m.g = g
			m.renewedAt(g.hub.clock())
			m.hear()
			k.add(m.session)
			k.group(m.session, uint32(turn))
		}
		for _, step := range []struct {
			pause time.Duration
			want  int
		}{
			{keeperTick, 1},
			{2 * keeperTick, 2}, // late, as ticks are on a busy machine
			{2*keeperTick + 1, 0},
			{keeperTick, renewTicks},
			{keeperTick, 1},
			{time.Second + 1, 0},
			{time.Second + 1, renewTicks}, // the machine is that slow, and not stalled
		} {
			calls.sessions = 0
			time.Sleep(step.pause)
			k.tick(t.Context())
			synctest.Wait()
			if calls.sessions != step.want {
				t.Errorf("%v after the last tick, %d leases were renewed, want %d", step.pause, calls.sessions, step.want)
			}
		}
	})
}

func TestRoomsOfOnePartitionAreRenewedInOneTurn(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		h := st.shard.hub
		for _, partitions := range []int{1, 3, renewTicks, 64, 4096} {
			layout := roomlog.Layout{Partitions: partitions}
			h.subs = roomlog.NewSubscriber(nil, layout, h)
			k := newKeeper(&Gateway{cfg: Config{Layout: layout}, hub: h})
			turns, rooms := make(map[int]int), make(map[int]int) // the turn of each partition, and the rooms of each turn
			for i := range 2_000 {
				id := fmt.Sprint(partitions, "-", i)
				_, group, _ := h.enter(id, "")
				turn, p := k.cohortOf(group), layout.Partition(id)
				rooms[turn]++
				if before, known := turns[p]; known && before != turn && partitions >= renewTicks {
					t.Fatalf("of %d partitions, rooms of number %d have turns %d and %d", partitions, p, before, turn)
				}
				turns[p] = turn
			}
			for turn := range renewTicks {
				if n := rooms[turn]; n < 120 || n > 320 {
					t.Errorf("of %d partitions, turn %d has %d of 2,000 rooms", partitions, turn, n)
				}
			}
		}
	})
}

// A gateway that was stalled learns of takeovers only when it goes on. The sessions that were
// replaced are told so, and do not come back for the seat. No session gets anything else
// meanwhile.
func TestSessionsThatLapsedWhileTheProcessStoodStillHearWhy(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		g := &Gateway{cfg: Config{Rooms: &renewals{}}, hub: st.shard.hub, metrics: newMetrics(nil)}
		k := newKeeper(g)
		replaced, lost := st.join(), st.join()
		for _, m := range []*member{replaced, lost} {
			m.g, m.in.meter = g, newMeter(0, 0)
			m.hear()
			k.add(m.session)
		}
		time.Sleep(wire.PingEvery - time.Second) // quiet peers are heard from as seldom as that
		for _, m := range []*member{replaced, lost} {
			m.renewedAt(g.hub.clock())
		}
		k.ticked = g.hub.clock()
		st.publish(st.append())
		st.step()
		time.Sleep(wire.Lease + time.Second)
		st.publish(st.append())
		st.step()
		k.tick(t.Context())
		for _, m := range []*member{replaced, lost} {
			if err := m.handle([]byte("nonsense")); err != nil {
				t.Error(err)
			}
			m.published(&outMessage{}, nil, roomlog.Result{Err: wire.Errorf(wire.Unavailable, "late")})
		}
		st.publish(st.append(), roomlog.Event{Kind: roomlog.KindReplaced, Data: []byte(replaced.id)})
		st.step()
		time.Sleep(keeperTick)
		k.tick(t.Context())
		st.got(replaced, "E1/1", fmt.Sprint("close ", int(wire.CloseReplaced)))
		st.got(lost, "E1/1", fmt.Sprint("close ", int(wire.CloseLeaseLost)))
	})
}

// slowRooms answers renewals when it is told to.
type slowRooms struct {
	roomv1.RoomServiceClient
	answer chan struct{}
}

func (r *slowRooms) RenewLeases(ctx context.Context, _ *roomv1.RenewLeasesRequest, _ ...grpc.CallOption) (*roomv1.RenewLeasesResponse, error) {
	<-r.answer
	return &roomv1.RenewLeasesResponse{}, nil
}

// A session whose lease was found to have ended is closed, even if the answer to a renewal
// comes after that.
func TestSessionThatLapsedIsNotRevivedByAnAnswerThatComesLate(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		rooms := &slowRooms{answer: make(chan struct{})}
		g := &Gateway{cfg: Config{Rooms: rooms}, hub: st.shard.hub, metrics: newMetrics(nil)}
		k := newKeeper(g)
		m := st.join()
		m.g = g
		k.add(m.session)
		k.group(m.session, uint32(renewTicks-1))
		m.renewedAt(g.hub.clock())
		time.Sleep(wire.Lease - fence - keeperTick)
		k.ticked = g.hub.clock()
		go k.renew(t.Context(), []*session{m.session})
		synctest.Wait()
		time.Sleep(fence + keeperTick + time.Millisecond) // the process is stalled
		m.hear()
		k.tick(t.Context())
		close(rooms.answer)
		synctest.Wait()
		time.Sleep(keeperTick)
		k.tick(t.Context())
		st.publish(st.append())
		st.got(m, fmt.Sprint("close ", int(wire.CloseLeaseLost)))
	})
}

// failing refuses renewals.
type failing struct{ roomv1.RoomServiceClient }

func (failing) RenewLeases(context.Context, *roomv1.RenewLeasesRequest, ...grpc.CallOption) (*roomv1.RenewLeasesResponse, error) {
	return nil, wire.Errorf(wire.Unavailable, "out of reach")
}

// The keeper skips quiet sessions at most ticks, but not at those that matter.
func TestQuietSessionsEndBeforeTheirLeasesAndAfterTheirSilence(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		g := &Gateway{cfg: Config{Rooms: failing{}}, hub: st.shard.hub, metrics: newMetrics(nil)}
		k := newKeeper(g)
		k.ticked = g.hub.clock()
		const unleased = 7 // these have not joined, and are silent
		var members []*member
		for i := range 3*pingTicks + unleased {
			m := st.join()
			m.g = g
			m.hear()
			k.add(m.session)
			if i >= unleased {
				m.renewedAt(g.hub.clock())
				k.group(m.session, uint32(i))
			}
			members = append(members, m)
			if i%7 == 0 {
				time.Sleep(keeperTick)
				k.tick(t.Context())
			}
		}
		for range 100 {
			time.Sleep(keeperTick)
			now := g.hub.clock()
			k.tick(t.Context())
			for i, m := range members {
				ends := time.Duration(m.leaseUntil.Load()) - fence
				if i < unleased {
					ends = time.Duration(m.heardAt.Load()) + wire.PeerSilence
				}
				if ended := m.sock.ending(); ended != (now >= ends) {
					t.Fatalf("number %d: ended %v, %v before it is to end", i, ended, ends-now)
				}
			}
		}
		for _, m := range members[unleased:] {
			if code := m.sock.closeCode(); code != wire.CloseLeaseLost {
				t.Fatalf("closed with %d", code)
			}
		}
		k.calls.Wait()
	})
}

// A peer whose ping was due while the process was stalled has not been pinged.
func TestPeersAreAskedBeforeTheyAreTakenForSilent(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		g := &Gateway{cfg: Config{Rooms: &renewals{}}, hub: st.shard.hub, metrics: newMetrics(nil)}
		k := newKeeper(g)
		k.ticked = g.hub.clock()
		m := st.join()
		m.g = g
		m.hear()
		k.add(m.session)
		pings := func() int { return len(m.tape.data) / len(pingFrame) }
		tick := func(behind time.Duration) {
			time.Sleep(behind)
			m.renewedAt(g.hub.clock())
			k.tick(t.Context())
			synctest.Wait()
		}
		for range pingTicks - 1 {
			tick(keeperTick)
		}
		before := pings()
		tick(12 * time.Second) // the lease has not ended
		if m.sock.ending() || pings() == before {
			t.Fatalf("%d pings, ended: %v", pings()-before, m.sock.ending())
		}
		for range 10 { // ticks that are all late
			before = pings()
			for range 27 {
				m.hear()
				tick(keeperTick * 19 / 10)
			}
			if pings() == before {
				t.Fatal("not asked in 25.6 s")
			}
		}
		m.hear()
		asked := g.hub.clock()
		for !m.sock.ending() {
			tick(keeperTick)
		}
		if silent := g.hub.clock() - asked; silent < wire.PeerSilence || silent > wire.PeerSilence+2*keeperTick {
			t.Errorf("cut off after %v of silence", silent)
		}
	})
}

func TestARenewalThatWasHeldUpIsCountedForWhatItGave(t *testing.T) {
	k := &keeper{g: &Gateway{metrics: newMetrics(nil)}}
	s := &session{}
	for _, c := range []struct {
		sent, lease, ends time.Duration
	}{
		{0, wire.Lease, wire.Lease},
		{5 * time.Second, 12 * time.Second, 17 * time.Second},
		{10 * time.Second, 0, 17 * time.Second}, // takes nothing away
		{10 * time.Second, time.Hour, 10*time.Second + wire.Lease},
	} {
		k.renewed([]*session{s}, &roomv1.RenewLeasesResponse{Lease: durationpb.New(c.lease)}, c.sent)
		if ends := time.Duration(s.leaseUntil.Load()); ends != c.ends {
			t.Errorf("%v sent at %v: ends at %v, not %v", c.lease, c.sent, ends, c.ends)
		}
	}
}

// A session that was closed for another reason, such as a takeover, still has its queue. If its
// peer reads slowly, the writer must not go on with it once the lease has ended.
func TestWhatWaitsForAClosedSlowReaderIsDroppedBeforeItsLeaseEnds(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		g := &Gateway{cfg: Config{Rooms: &renewals{}}, hub: st.shard.hub, metrics: newMetrics(nil)}
		k, m := newKeeper(g), st.join()
		var peer net.Conn
		m.sock, peer, _ = memSocket(t)
		m.g = g
		m.hear()
		m.renewedAt(g.hub.clock())
		k.add(m.session)
		const sent = 200
		for i := range sent {
			m.sock.send(numbered(i, 1000))
		}
		m.close(wire.CloseReplaced)
		for ended := g.hub.clock() + wire.Lease; g.hub.clock() < ended-keeperTick; {
			time.Sleep(keeperTick)
			k.tick(t.Context())
		}
		if got, code := readNumbered(t, peer); got > sent/2 || code != wire.CloseReplaced {
			t.Errorf("%d of %d frames came before the close with %d", got, sent, code)
		}
	})
}
