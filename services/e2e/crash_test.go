package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
)

func TestTheSeatsOfAKilledGatewayAreFreeAgain(t *testing.T) {
	t.Parallel()
	v := start(t, cluster.Options{})
	killed, other := v.Gateways[0], v.Gateways[1]
	shared, alone := v.room(t, client.RoomSpec{Capacity: 2}), v.room(t, client.RoomSpec{Capacity: 4})
	ann, bob := v.identity(t, "Ann"), v.identity(t, "Bob")
	onKilled := v.join(t, killed.URL(), shared.RoomID, ann)
	remains := v.join(t, other.URL(), shared.RoomID, bob)
	for range 3 {
		v.join(t, killed.URL(), alone.RoomID, v.identity(t, ""))
	}

	must(t, killed.Kill())
	began := time.Now()
	wantClose(t, onKilled, soon, client.CloseAbnormal)
	wantNext(t, remains, remains, "others go on meanwhile")
	gone := eventually(t, freedWithin, "the room that only the killed gateway served is gone", func() bool {
		return !v.roomExists(t, alone.RoomID)
	})
	took(t, "a room of a killed gateway is gone (17 s)", gone)
	left, _ := receive(t, remains, soon, wire.TypeMemberLeft)
	freed := time.Since(began)
	took(t, "MEMBER_LEFT for a seat of a killed gateway (17 s)", freed)
	if freed > freedWithin {
		t.Errorf("the seat was free after %v", freed)
	}
	if left.Reason != wire.ReasonLost || left.Member == nil || left.Member.Nickname != "Ann" || left.Occupied != 1 {
		t.Errorf("got %+v", left)
	}
	v.wantOccupied(t, shared.RoomID, 1)
	v.wantNoTrace(t, alone.RoomID)
	_, err := v.Room(within(t, soon), alone.RoomID)
	wantRefusal(t, err, wire.RoomNotFound)

	must(t, killed.Start(within(t, soon)))
	back := v.join(t, killed.URL(), shared.RoomID, ann)
	wantNext(t, back, back, "back on the same gateway")
}

func TestCallsGoOnByTheOtherRoomServiceWhenOneIsKilled(t *testing.T) {
	t.Parallel()
	v := start(t, cluster.Options{})
	traffic := v.traffic(t, v.Gateways[0].URL(), v.Gateways[1].URL(), v.Gateways[2].URL())
	for _, p := range v.Cluster.Rooms {
		traffic.more(t, 50)
		must(t, p.Kill())
		traffic.more(t, 100)
		must(t, p.Start(within(t, soon)))
		v.found(t, p)
	}
	traffic.more(t, 50)
	traffic.stop()
	took(t, fmt.Sprintf("longest of %d visits (reserve, join, leave) with room services killed", traffic.visits.Load()),
		time.Duration(traffic.longest.Load()))
}

// found waits until every gateway sends calls to a room service that was started again.
func (v *venue) found(t *testing.T, room *cluster.Process) {
	t.Helper()
	for _, g := range v.Gateways {
		c, err := v.At(g.URL())
		must(t, err)
		before := v.listings(t, room)
		eventually(t, soon, g.Name+" has found "+room.Name+" again", func() bool {
			_, err := c.Rooms(t.Context(), client.Page{})
			return err == nil && v.listings(t, room) > before
		})
	}
}

// listings returns how many calls of ListRooms a room service has answered. Visits make no such
// calls.
func (v *venue) listings(t *testing.T, room *cluster.Process) int64 {
	t.Helper()
	body := v.admin(t, room, "/metrics")
	defer body.Close()
	for lines := bufio.NewScanner(body); lines.Scan(); {
		if n, ok := strings.CutPrefix(lines.Text(), `anteroom_rpc_server_calls_total{code="OK",method="/anteroom.room.v1.RoomService/ListRooms"} `); ok {
			count, err := strconv.ParseInt(n, 10, 64)
			must(t, err)
			return count
		}
	}
	return 0
}

func TestARoomServiceThatHangsIsPassedOver(t *testing.T) {
	t.Parallel()
	v := start(t, cluster.Options{})
	calm := v.room(t, client.RoomSpec{Capacity: 1})
	stays := v.join(t, "", calm.RoomID, v.identity(t, "Stays"))
	room, who := v.room(t, client.RoomSpec{Capacity: 1, DepartureTimeout: time.Minute}), v.identity(t, "Visitor")
	hung := v.Cluster.Rooms[0]
	must(t, hung.Pause())
	began := time.Now()

	// A call to the paused one is repeated to the other, which then gets the next calls at once.
	for range 10 {
		must(t, v.visit(v.URL(), room.RoomID, who))
	}
	took(t, "ten visits while a room service hangs", time.Since(began))
	// The other one has renewed the leases all the while.
	time.Sleep(time.Until(began.Add(wire.Lease + wire.RenewEvery)))
	wantNext(t, stays, stays, "not a lease lost")
	must(t, hung.Resume())
	must(t, v.visit(v.URL(), room.RoomID, who))
}

// traffic is users who reserve, join and leave again and again.
type traffic struct {
	visits  atomic.Int64
	longest atomic.Int64 // ns
	stop    func()
}

func (v *venue) traffic(t *testing.T, bases ...string) *traffic {
	t.Helper()
	tr := &traffic{}
	ctx, cancel := context.WithCancel(t.Context())
	var users sync.WaitGroup
	tr.stop = sync.OnceFunc(func() { cancel(); users.Wait() })
	t.Cleanup(tr.stop)
	room := v.room(t, client.RoomSpec{Capacity: 100, DepartureTimeout: time.Minute})
	for i := range 6 {
		who, base := v.identity(t, ""), bases[i%len(bases)]
		users.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				if err := v.visit(base, room.RoomID, who); err != nil {
					t.Errorf("a visit failed: %v", err)
					return
				}
				tr.visits.Add(1)
				for d := int64(time.Since(began)); ; {
					if old := tr.longest.Load(); d <= old || tr.longest.CompareAndSwap(old, d) {
						break
					}
				}
				select {
				case <-ctx.Done():
				case <-time.After(5 * time.Millisecond):
				}
			}
		})
	}
	return tr
}

// more waits until n more visits have been made.
func (tr *traffic) more(t *testing.T, n int64) {
	t.Helper()
	from := tr.visits.Load()
	eventually(t, 2*soon, fmt.Sprintf("%d more visits", n), func() bool { return t.Failed() || tr.visits.Load() >= from+n })
	if t.Failed() {
		t.FailNow()
	}
}

// visit makes every call that the room service has for users.
func (v *venue) visit(base, roomID string, who client.Identity) error {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	c, err := v.At(base)
	if err != nil {
		return err
	}
	permit, err := c.Reserve(ctx, who.Identity, roomID)
	if err != nil {
		return err
	}
	if _, err := c.Room(ctx, roomID); err != nil {
		return err
	}
	for {
		s, err := c.Join(ctx, client.JoinOptions{RoomID: roomID, Permit: permit.Permit, Identity: who.Identity})
		if err == nil {
			return s.Leave(ctx)
		}
		// A draining gateway refuses joins with 1012 until HAProxy has noticed.
		if e, ok := errors.AsType[*client.JoinError](err); !ok || e.Close == nil || e.Close.Code != wire.CloseRestart {
			return err
		}
		if ctx.Err() != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}
