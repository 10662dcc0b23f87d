package pace

import (
	"testing"
	"time"
)

func TestEveryMemberSendsInTurnAtTheShapesRate(t *testing.T) {
	s := Shape{Name: "test", Rooms: 3, Size: 4, Rate: 600}
	sent := map[[2]int]int{}
	for i := range 10 * s.members() {
		room, member := s.turn(i)
		sent[[2]int{room, member}]++
	}
	if len(sent) != s.members() {
		t.Errorf("%d members send, of %d", len(sent), s.members())
	}
	for who, n := range sent {
		if n != 10 {
			t.Errorf("%v sends %d of 120", who, n)
		}
	}
	for i, want := range map[int]time.Duration{0: 0, 1: 1666666, 600: time.Second, 36_000: time.Minute} {
		if got := s.due(i); got != want {
			t.Errorf("message %d is due after %v, not %v", i, got, want)
		}
	}
}

func TestShapesAreFoundByNameAndGroup(t *testing.T) {
	for names, want := range map[string]int{
		"small": 1, "hot, idle": 2, "goals": goals, "grow": len(shapes) - goals, "all": len(shapes),
	} {
		found, err := Shapes(names)
		if err != nil || len(found) != want {
			t.Errorf("%s: %d shapes, %v", names, len(found), err)
		}
		for _, s := range found {
			if err := s.check(); err != nil {
				t.Error(err)
			}
		}
	}
	for _, names := range []string{"", "tiny", "small,"} {
		if _, err := Shapes(names); err == nil {
			t.Errorf("%q names shapes", names)
		}
	}
	for i, s := range shapes {
		if (s.Goal != Goal{}) != (i < goals) {
			t.Errorf("%s: goals stand with the first %d shapes", s.Name, goals)
		}
	}
}
