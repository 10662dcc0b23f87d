package web_test

import (
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

func testReplay(t *testing.T, s *scripted) {
	c := inRoom(s)
	c.put(says(4, "u_bob", "hello"), says(2, "u_bob", "old"), enters(5, "u_cy"), says(5, "u_bob", "double"))
	s.want("memberjoined 5 u_cy")
	c.close(1006)
	c = comesBack(s)
	c.after("e", 5)
	c.joined("e", 8, true, "u_cy", "u_dee")
	c.put(says(5, "u_cy", "double"), says(6, "u_cy", "six"), enters(7, "u_dee"), says(8, "u_cy", "eight"), says(9, "u_cy", "nine"), says(9, "u_cy", "nine"))
	c.put(says(10, "u_cy", "ten"))
	s.want("joined 8 again", "message 6 six", "memberjoined 7 u_dee replayed", "message 8 eight", "message 9 nine", "message 10 ten")
	if got := eval[string](s, "harness.members()"); got != "u_me u_cy u_dee" {
		t.Errorf("the roster is %s", got)
	}
}

func testGaps(t *testing.T, s *scripted) {
	c := inRoom(s)
	c.put(wire.GapFrame(5, 7), says(8, "u_bob", "eight"))
	s.want("gap 5-7", "message 8 eight")
	// A rejoin tells who came and went in the gap.
	s.dialsAfter(2500 * time.Millisecond)
	next := s.socket()
	next.after("e", 8)
	next.joined("e", 8, true, "u_eve")
	c.gone()
	s.want("joined 8 again")
	next.put(says(11, "u_eve", "eleven"), wire.GapFrame(9, 11), wire.GapFrame(10, 12), says(13, "u_eve", "thirteen"))
	s.want("gap 9-10", "message 11 eleven", "gap 12-12", "message 13 thirteen")
	if got := eval[string](s, "harness.members()"); got != "u_me u_eve" {
		t.Errorf("the roster is %s", got)
	}
}

func testNotRecovered(t *testing.T, s *scripted) {
	c := inRoom(s)
	c.close(1006)
	c = comesBack(s)
	c.joined("e", 9, false, "u_eve")
	s.send("waits", "m1")
	c.put(wire.GapFrame(5, 8), says(9, "u_eve", "nine"))
	s.want("joined 9 again", "gap 5-8", "message 9 nine")
	c.takes("waits", "m1")
	c.put(echo(10, me, "waits", "m1"))
	s.want("message 10 waits own", "sent m1 10")
	// The roster of JOINED already includes what is in the gap, so nothing is refreshed.
	if opened := eval[int](s, "harness.dialed()"); s.advance(10*time.Second) != opened {
		t.Error("joined again for nothing")
	}
}

// Otherwise a thousand members of a room with presence "count" would rejoin for nothing.
func testGapWithoutRoster(t *testing.T, s *scripted) {
	c := s.join("{}")
	c.put(wire.Joined{RoomID: c.join.RoomID, Epoch: "e", Seq: 3, UserID: me, Capacity: 2000, Occupied: 1500}.Encode())
	c.put(wire.OccupancyFrame(1600), wire.GapFrame(4, 7), says(8, "u_bob", "eight"))
	s.want("joined 3", "gap 4-7", "message 8 eight")
	if got := eval[int](s, "harness.occupied()"); got != 1600 {
		t.Errorf("%d seats are occupied", got)
	}
	if opened := eval[int](s, "harness.dialed()"); s.advance(10*time.Second) != opened {
		t.Error("joined again for nothing")
	}
}

func testEpoch(t *testing.T, s *scripted) {
	c := inRoom(s)
	c.close(1006)
	c = comesBack(s)
	c.after("e", 4)
	c.joined("f", 2, false, "u_eve")
	c.put(wire.GapFrame(1, 2), says(3, "u_eve", "a new room"))
	s.want("joined 2 again renewed", "gap 1-2", "message 3 a new room")
	c.close(1006)
	s.want("reconnecting 500")
	s.dialsAfter(500 * time.Millisecond)
	s.socket().after("f", 3)
}

func testSetBack(t *testing.T, s *scripted) {
	c := inRoom(s)
	c.close(1006)
	c = comesBack(s)
	c.joined("e", 2, false)
	c.put(says(3, "u_bob", "another third"))
	s.want("joined 2 again", "message 3 another third")
}
