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

// crowd is a store in which so many rooms are due at first, a hundred at a time.
type crowd struct {
	room.Leases
	due int
}

func (c *crowd) Due(context.Context) ([]string, bool, error) {
	return make([]string, min(c.due, 100)), c.due >= 100, nil
}

func (c *crowd) Expire(_ context.Context, rooms []string) (int, error) {
	c.due -= len(rooms)
	return 0, nil
}

func TestAllRoomsThatAreDueAreVisitedInOneRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := &crowd{due: 10_001}
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
}

// TestRoomsThatComeWithAnErrorAreVisited is of a partition that does not answer.
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
	partly  bool // an error comes with it
	visited []time.Time
}

func (l *leases) Due(context.Context) ([]string, bool, error) {
	if l.down.Load() {
		return nil, false, errors.New("out of reach")
	}
	if l.partly {
		return []string{"r"}, false, errors.New("out of reach in part")
	}
	return []string{"r"}, false, nil
}

func (l *leases) Expire(_ context.Context, rooms []string) (int, error) {
	if len(rooms) == 1 && rooms[0] == "r" {
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
