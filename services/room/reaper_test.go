package room_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/room"
)

// crowd is a store in which a number of rooms are due at first. Due returns up to a hundred
// at a time.
type crowd struct {
	room.Leases
	due    int
	broken error // error of each call of Expire
}

func (c *crowd) Due(context.Context) ([]room.Visit, bool, error) {
	return make([]room.Visit, min(c.due, 100)), c.due >= 100, nil
}

func (c *crowd) Expire(_ context.Context, visits []room.Visit) (int, error) {
	c.due -= len(visits)
	return len(visits), c.broken
}

func TestAllRoomsThatAreDueAreVisitedInOneRound(t *testing.T) {
	for name, broken := range map[string]error{"all of them": nil, "but one that cannot be": errors.New("a key of a wrong type")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				c := &crowd{due: 10_001, broken: broken}
				ended := make(chan struct{})
				go func() { room.Reap(ctx, c); close(ended) }()
				time.Sleep(room.ReapEvery)
				synctest.Wait()
				if c.due != 0 {
					t.Errorf("%d rooms wait for the next round", c.due)
				}
				cancel()
				<-ended
			})
		})
	}
}

// TestRoomsThatComeWithAnErrorAreVisited is about a partition that does not answer.
func TestRoomsThatComeWithAnErrorAreVisited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l := &leases{partly: true}
		ended := make(chan struct{})
		go func() { room.Reap(ctx, l); close(ended) }()
		time.Sleep(room.ReapEvery)
		synctest.Wait()
		if len(l.visited) != 1 {
			t.Errorf("%d visits", len(l.visited))
		}
		cancel()
		<-ended
	})
}

// leases is a store in which room "r" is always due; it fails while down.
type leases struct {
	room.Leases
	down    atomic.Bool
	partly  bool // Due returns an error together with the room
	visited []time.Time
}

func (l *leases) Due(context.Context) ([]room.Visit, bool, error) {
	if l.down.Load() {
		return nil, false, errors.New("out of reach")
	}
	if l.partly {
		return []room.Visit{{RoomID: "r"}}, false, errors.New("out of reach in part")
	}
	return []room.Visit{{RoomID: "r"}}, false, nil
}

func (l *leases) Expire(_ context.Context, visits []room.Visit) (int, error) {
	if len(visits) == 1 && visits[0].RoomID == "r" {
		l.visited = append(l.visited, time.Now())
	}
	return 1, nil
}

func TestTheReaperKeepsTheSeventeenSecondsThroughAMissedRound(t *testing.T) {
	const mostGap = (17*time.Second - wire.Lease) / 2
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l := &leases{}
		ended := make(chan struct{})
		go func() { room.Reap(ctx, l); close(ended) }()
		time.Sleep(3 * time.Second)
		l.down.Store(true)
		time.Sleep(time.Minute)
		l.down.Store(false)
		back := time.Now()
		time.Sleep(3 * time.Second)
		cancel()
		<-ended
		for i, at := range l.visited[1:] {
			gap := at.Sub(l.visited[i])
			if !at.Before(back) && l.visited[i].Before(back) {
				gap = at.Sub(back)
			}
			if gap > mostGap {
				t.Errorf("no visit for %v", gap)
			}
		}
		if last := time.Since(l.visited[len(l.visited)-1]); last > mostGap {
			t.Errorf("no visit for the last %v", last)
		}
	})
}
