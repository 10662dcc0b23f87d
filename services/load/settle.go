package load

import (
	"context"
	"fmt"
	"time"

	"github.com/anteroom-chat/anteroom/services/audit"
)

const (
	pollPause      = 250 * time.Millisecond // between two questions about one room
	pollMost       = 500                    // questions a second about all rooms
	leavePatience  = time.Second            // until a seat is free after LEAVE; longer is a violation
	settlePatience = 3 * time.Second        // beyond the time that a seat may stay taken
)

// settle empties the rooms, half by LEAVE and half by breaking connections, and waits until
// the service counts no taken seats.
func (s *storm) settle(ctx context.Context) {
	s.listen()
	present := make(map[*place][]*tab)
	s.tabs.Range(func(key, _ any) bool {
		if t := key.(*tab); !t.handed() {
			present[t.place] = append(present[t.place], t)
		}
		return true
	})
	pause := max(pollPause, time.Second*time.Duration(len(s.places))/pollMost)
	atMost(len(s.places), len(s.places), func(i int) {
		p := s.places[i]
		if !sleep(ctx, pause*time.Duration(i)/time.Duration(len(s.places))) {
			return
		}
		tabs := present[p]
		half := (len(tabs) + i%2) / 2
		s.leaveAll(ctx, p, tabs[:half], pause)
		for _, t := range tabs[half:] {
			t.cut()
		}
		s.comeBack(ctx, p, pause)
	})
}

// leaveAll gives the seats of the tabs up, and waits until they are free.
func (s *storm) leaveAll(ctx context.Context, p *place, tabs []*tab, pause time.Duration) {
	confirmed := 0
	for _, t := range tabs {
		if t.leave() {
			confirmed++
		}
	}
	if confirmed == 0 {
		return
	}
	left := s.clock()
	for n := 0; ctx.Err() == nil; n++ {
		taken, asked, heard, err := s.count(ctx, p, n)
		more := taken - p.mayBeTaken(asked)
		if err == nil && more <= 0 {
			s.tally.back(heard-left, true)
			return
		}
		if err == nil && asked > left+leavePatience {
			s.kept(p, more, fmt.Sprintf("%v after LEAVE was confirmed, %d of %d seats are taken that nobody can have",
				(asked-left).Round(time.Millisecond), more, taken))
			return
		}
		if asked > left+seatBack+settlePatience {
			return
		}
		sleep(ctx, pause)
	}
}

// comeBack waits until every seat of a room is free, and reports those that stay taken too
// long.
func (s *storm) comeBack(ctx context.Context, p *place, pause time.Duration) {
	p.mu.Lock()
	last := p.last
	p.mu.Unlock()
	late := 0
	for n := 0; ctx.Err() == nil; n++ {
		taken, asked, heard, err := s.count(ctx, p, n)
		within := s.backWithin(last)
		switch {
		case err == nil && taken == 0:
			s.tally.back(max(0, heard-last), false)
			if late > 0 {
				s.kept(p, late, fmt.Sprintf("%d seats were taken for more than %v after the last broken socket or permit: they came back after %v",
					late, within, (heard-last).Round(time.Millisecond)))
			}
			return
		case err == nil && asked > last+within:
			late = taken
		}
		if asked > last+within+settlePatience {
			s.notBack(p, taken, asked-last, err)
			return
		}
		sleep(ctx, pause)
	}
}

func (s *storm) notBack(p *place, taken int, after time.Duration, err error) {
	if err != nil {
		s.tally.error("a room's counts are not known at the end")
		s.tally.add(func(r *Report) { r.RoomsUnsettled++ })
		return
	}
	s.tally.add(func(r *Report) { r.SeatsNotBack += int64(taken) })
	s.kept(p, taken, fmt.Sprintf("%d seats are still taken %v after the last broken socket or permit", taken, after.Round(time.Millisecond)))
}

func (s *storm) kept(p *place, seats int, detail string) {
	s.tally.found(audit.Violation{Kind: audit.SeatKept, RoomID: p.spec.RoomID, Count: int64(seats), Detail: detail})
}
