package e2e

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
)

// entry is the part of a log entry that two members compare.
type entry struct {
	seq            int64
	kind, from, id string
	body           string
}

func TestMembersOnTwoGatewaysSeeTheSameLog(t *testing.T) {
	t.Parallel()
	v := start(t, cluster.Options{})
	for _, via := range []struct{ name, ann, bob string }{
		{"on gateways 1 and 3", v.Gateways[0].URL(), v.Gateways[2].URL()},
		{"through HAProxy", v.URL(), v.URL()},
	} {
		t.Run(via.name, func(t *testing.T) {
			room := v.room(t, client.RoomSpec{Capacity: 8})
			ann := v.join(t, via.ann, room.RoomID, v.identity(t, "Ann"))
			bob := v.join(t, via.bob, room.RoomID, v.identity(t, "Bob"))
			if n := len(v.sessionsByGateway(t, room.RoomID)); n != 2 {
				t.Errorf("two members are on %d gateways", n)
			}
			const each = 30 // within the burst of 40
			logs := make([][]entry, 2)
			var all sync.WaitGroup
			for i, s := range []*client.Session{ann, bob} {
				all.Go(func() {
					for n := range each {
						if err := s.Send(t.Context(), fmt.Sprintf("%d-%d", i, n), n); err != nil {
							t.Error(err)
						}
					}
				})
				all.Go(func() { logs[i] = readMessages(t, s, 2*each) })
			}
			all.Wait()
			for i, got := range logs[0] {
				if i >= len(logs[1]) || got != logs[1][i] {
					t.Fatalf("entry %d differs: %+v, %+v", i, logs[0][i:], logs[1][min(i, len(logs[1])):])
				}
				if first := bob.Joined().Seq + 1; got.seq != first+int64(i) {
					t.Fatalf("entry %d has seq %d, the first %d", i, got.seq, first)
				}
			}
		})
	}
}

// readMessages reads frames until it has n messages.
func readMessages(t *testing.T, s *client.Session, n int) []entry {
	ctx := within(t, soon)
	var log []entry
	for len(log) < n {
		f, err := s.Receive(ctx)
		if err != nil {
			t.Errorf("after %d of %d messages: %v", len(log), n, err)
			return log
		}
		switch {
		case f.Type == wire.TypeMessage:
			log = append(log, entry{f.Seq, f.Type, f.From.UserID, f.ID, string(f.Body)})
		case f.Type != wire.TypeMemberJoined:
			t.Errorf("unexpected %+v", f)
		}
	}
	return log
}

func TestACrowdGetsExactlyTheSeatsThereAreAndLeavesNoTrace(t *testing.T) {
	t.Parallel()
	v := start(t, cluster.Options{})
	const crowd, seats = 300, 8
	ids := make([]client.Identity, crowd)
	for i := range ids {
		ids[i] = v.identity(t, "")
	}
	room := v.room(t, client.RoomSpec{Capacity: seats})
	permits, refusals := make([]client.Permit, crowd), make([]error, crowd)
	began := time.Now()
	var all sync.WaitGroup
	for i, id := range ids {
		base := v.Gateways[i%len(v.Gateways)].URL()
		all.Go(func() {
			c, err := v.At(base)
			if err == nil {
				permits[i], err = c.Reserve(t.Context(), id.Identity, room.RoomID)
			}
			refusals[i] = err
		})
	}
	all.Wait()
	took(t, "300 reservations at once", time.Since(began))
	var got []client.Permit
	for i, err := range refusals {
		if err == nil {
			got = append(got, permits[i])
			continue
		}
		wantRefusal(t, err, wire.RoomFull) // 409
	}
	if len(got) != seats {
		t.Fatalf("%d of %d reservations succeeded, the room has %d seats", len(got), crowd, seats)
	}
	v.enterAndLeave(t, room.RoomID, got)
	_, err := v.Room(t.Context(), room.RoomID)
	wantRefusal(t, err, wire.RoomNotFound) // 404, at once
	v.wantNoTrace(t, room.RoomID)
}

// enterAndLeave confirms permits through all gateways, and then leaves with all sessions.
func (v *venue) enterAndLeave(t *testing.T, roomID string, permits []client.Permit) {
	t.Helper()
	var sessions []*client.Session
	for i, p := range permits {
		s, err := v.Join(within(t, soon), client.JoinOptions{
			Permit: p.Permit, Via: client.ViaPermit, BaseURL: v.Gateways[i%len(v.Gateways)].URL(),
		})
		must(t, err)
		t.Cleanup(s.Abort)
		sessions = append(sessions, s)
	}
	room, err := v.Room(t.Context(), roomID)
	must(t, err)
	if room.Reserved != 0 || room.Occupied != len(permits) {
		t.Errorf("after %d permits were confirmed: %+v", len(permits), room)
	}
	for _, s := range sessions {
		must(t, s.Leave(within(t, soon)))
	}
}

func TestAnUnusedPermitLapsesByItself(t *testing.T) {
	t.Parallel()
	v := start(t, cluster.Options{})
	room := v.room(t, client.RoomSpec{Capacity: 2})
	began := time.Now()
	permit, err := v.Reserve(within(t, soon), v.identity(t, "Ann").Identity, room.RoomID)
	must(t, err)
	if reserved, _ := v.occupancy(t, room.RoomID); reserved != 1 {
		t.Fatalf("%d seats are reserved", reserved)
	}
	_, secret, err := wire.SplitPermit(permit.Permit)
	must(t, err)
	key := v.Layout().Keys(room.RoomID).Permit(secret)
	if ttl := v.redis.PTTL(t.Context(), key).Val(); ttl <= 0 || ttl > wire.PermitTTL {
		t.Fatalf("the permit's key lives for %v", ttl)
	}
	// Nobody asks for the room: only the reaper can free the seat.
	eventually(t, freedWithin, "the reaper frees the reserved seat", func() bool {
		reserved, _ := v.occupancy(t, room.RoomID)
		return reserved == 0
	})
	lapsed := time.Since(began)
	took(t, "an unused permit lapses (15 s)", lapsed)
	if lapsed < wire.PermitTTL || lapsed > freedWithin {
		t.Errorf("the permit lapsed after %v", lapsed)
	}
	if v.redis.Exists(t.Context(), key).Val() != 0 {
		t.Error("the permit's key is still there")
	}
	got, err := v.Room(t.Context(), room.RoomID)
	must(t, err)
	if got.Reserved != 0 || got.Occupied != 0 {
		t.Errorf("after the permit lapsed: %+v", got)
	}
	_, err = v.Join(within(t, soon), client.JoinOptions{Permit: permit.Permit, Via: client.ViaPermit})
	wantRefusal(t, err, wire.PermitExpired) // 4410
}
