package e2e

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
)

func TestAShortOutageOfRedisIsToldAndCostsNobodyTheSeat(t *testing.T) {
	t.Parallel()
	v := start(t, cluster.Options{})
	room := v.room(t, client.RoomSpec{Capacity: 2})
	ann := v.join(t, v.Gateways[0].URL(), room.RoomID, v.identity(t, "Ann"))
	bob := v.join(t, v.Gateways[2].URL(), room.RoomID, v.identity(t, "Bob"))
	wantNext(t, ann, bob, "before")

	must(t, v.Redis.Stop(within(t, soon)))
	down := time.Now()
	gateway, err := v.At(v.Gateways[1].URL())
	must(t, err)
	_, err = gateway.Room(within(t, soon), room.RoomID)
	wantRefusal(t, err, wire.Unavailable) // 503
	if e, ok := errors.AsType[*client.StatusError](err); !ok || e.RetryAfter == 0 {
		t.Errorf("without Retry-After: %v", err)
	}
	must(t, ann.Send(within(t, soon), "meanwhile", "lost?"))
	refusal, _ := receive(t, ann, soon, wire.TypeError)
	if refusal.Code != wire.Unavailable || refusal.ID != "meanwhile" {
		t.Errorf("a message without Redis got %+v", refusal)
	}
	_, err = v.Room(within(t, soon), room.RoomID)
	if e, ok := errors.AsType[*client.StatusError](err); !ok || e.Status != http.StatusServiceUnavailable {
		t.Errorf("through HAProxy, without Redis: %v", err)
	}
	// Every lease misses a renewal, but none ends.
	time.Sleep(time.Until(down.Add(wire.RenewEvery + 2*time.Second)))
	must(t, v.Redis.Start(within(t, soon)))
	took(t, "Redis was down (less than a lease)", time.Since(down))

	retried := eventually(t, soon, "messages go on", func() bool {
		must(t, ann.Send(within(t, soon), "meanwhile", "not lost"))
		f, err := ann.Receive(within(t, soon))
		must(t, err)
		return f.Type == wire.TypeMessage && f.ID == "meanwhile"
	})
	took(t, "until a message is taken again", retried)
	f, before := receive(t, bob, soon, wire.TypeMessage)
	if f.ID != "meanwhile" || len(before) > 0 {
		t.Errorf("after the outage came %v and %q", types(before), f.ID)
	}
	wantNext(t, bob, bob, "after")
	// The leases from before the outage have ended; those renewed since have not.
	time.Sleep(time.Until(down.Add(wire.Lease + 2*time.Second)))
	wantNext(t, bob, bob, "much later")
	v.wantOccupied(t, room.RoomID, 2)
}

func TestMembersComeBackByThemselvesAfterALongOutageOfRedis(t *testing.T) {
	t.Parallel()
	v := start(t, cluster.Options{})
	// The seats are lost with their leases, but the room must survive that.
	room := v.room(t, client.RoomSpec{Capacity: 3, DepartureTimeout: 5 * time.Minute})
	ann, bob := v.enter(t, room.RoomID, "Ann"), v.enter(t, room.RoomID, "Bob")
	plain := v.join(t, v.Gateways[0].URL(), room.RoomID, v.identity(t, "Carol"))
	said, err := ann.Send(within(t, soon), "before")
	must(t, err)

	must(t, v.Redis.Stop(within(t, soon)))
	down := time.Now()
	wantClose(t, plain, wire.Lease, wire.CloseLeaseLost, wire.CloseUnavailable) // I6: before the lease ends
	took(t, "the socket is closed when its lease cannot be renewed (15 s)", time.Since(down))
	time.Sleep(time.Until(down.Add(wire.Lease + time.Second))) // the outage outlasts every lease
	must(t, v.Redis.Start(within(t, soon)))
	up := time.Now()

	seq, err := ann.Send(within(t, 20*time.Second), "after")
	must(t, err)
	took(t, "from Redis' return to a message of a member who came back", time.Since(up))
	if seq <= said {
		t.Errorf("seq %d after %d", seq, said)
	}
	for _, m := range []*client.Member{ann, bob} {
		wantUnbroken(t, m, seq, 20*time.Second)
	}
	// The members came back through one room service; the other tries Redis once a second.
	eventually(t, soon, "both members have their seats", func() bool {
		r, err := v.Room(within(t, soon), room.RoomID)
		return err == nil && r.Occupied == 2 && r.Reserved == 0
	})
}

// Clients understand the errors of the API, and not HAProxy's own error pages.
func TestHAProxySaysAsTheAPIDoesThatNoGatewayAnswers(t *testing.T) {
	t.Parallel()
	v := start(t, cluster.Options{Rooms: 1, Gateways: 1})
	refused := func(err error) {
		t.Helper()
		wantRefusal(t, err, wire.Unavailable)
		if e, ok := errors.AsType[*client.StatusError](err); !ok || e.Status != http.StatusServiceUnavailable || e.RetryAfter == 0 {
			t.Errorf("got %#v", err)
		}
	}
	must(t, v.Gateways[0].Pause())
	cut := make(chan error, 1)
	go func() {
		_, err := v.Room(within(t, soon), "none")
		cut <- err
	}()
	time.Sleep(300 * time.Millisecond) // by then the request waits at the gateway; if it is later, it finds no gateway
	must(t, v.Gateways[0].Kill())
	refused(<-cut)
	_, err := v.Room(within(t, soon), "none")
	refused(err)
}

// enter makes a member that connects through HAProxy and comes back soon: the usual delays of
// up to 20 s would only make the test longer.
func (v *venue) enter(t *testing.T, roomID, nickname string) *client.Member {
	t.Helper()
	m, err := v.Enter(within(t, soon), client.MemberOptions{
		RoomID: roomID, Nickname: nickname, Buffer: 4096,
		Jitter: func(limit time.Duration) time.Duration { return min(limit, time.Second) },
	})
	must(t, err)
	t.Cleanup(m.Abort)
	return m
}

// wantUnbroken reads a member's events up to seq, and checks that the log came without a
// hole, a duplicate or a GAP. It returns how often the member came back.
func wantUnbroken(t *testing.T, m *client.Member, seq int64, d time.Duration) (returns int) {
	t.Helper()
	ctx := within(t, d)
	last := int64(-1)
	for last < seq {
		e, err := m.Next(ctx)
		if err != nil {
			t.Fatalf("a member at seq %d of %d: %v", last, seq, err)
		}
		switch e.Type {
		case wire.TypeJoined:
			if last < 0 {
				last = e.Seq
				continue
			}
			returns++
			if !e.Recovered {
				t.Errorf("came back and had not recovered: %+v", e.ServerFrame)
			}
		case wire.TypeMessage, wire.TypeMemberJoined, wire.TypeMemberLeft:
			if e.Seq != last+1 {
				t.Errorf("seq %d came after %d", e.Seq, last)
			}
			last = e.Seq
		case wire.TypeGap:
			t.Errorf("a GAP from %d to %d", e.GapFrom, e.GapTo)
			last = e.GapTo
		}
	}
	return returns
}
