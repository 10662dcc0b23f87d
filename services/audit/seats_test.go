package audit

import (
	"testing"
	"time"
)

func TestSeatsOfDifferentUsersThatOverlapAreCounted(t *testing.T) {
	type stay struct {
		user        string
		from, until time.Duration
	}
	for _, c := range []struct {
		name  string
		stays []stay
		want  string
	}{
		{"full", []stay{{"a", 0, 10}, {"b", 0, 10}}, ""},
		{"one too many", []stay{{"a", 0, 10}, {"b", 0, 10}, {"c", 9, 12}}, "over capacity"},
		{"one goes as the next comes", []stay{{"a", 0, 10}, {"b", 0, 10}, {"c", 10, 12}}, ""},
		{"a user's two sessions have one seat", []stay{{"a", 0, 10}, {"b", 0, 10}, {"a", 5, 12}}, ""},
		{"twice over capacity", []stay{{"a", 0, 10}, {"b", 0, 10}, {"c", 1, 2}, {"c", 4, 5}}, "over capacity, over capacity"},
		{"an empty stay", []stay{{"a", 0, 10}, {"b", 0, 10}, {"c", 5, 5}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			seats := NewSeats("r", 2)
			for _, s := range c.stays {
				seats.Held(s.user, s.from, s.until)
			}
			if vs := seats.Audit(); kinds(vs) != c.want {
				t.Errorf("found %v, want %q", vs, c.want)
			}
		})
	}
}

func TestWhatTheServiceCountsIsComparedWithWhatIsCertain(t *testing.T) {
	seats := NewSeats("r", 2)
	seats.Held("a", 0, 10)
	seats.Held("b", 5, 10)
	for _, c := range []struct {
		taken        int
		asked, heard time.Duration
	}{{1, 4, 6}, {2, 6, 9}, {0, 9, 11}, {0, 11, 12}} {
		if vs := seats.Counted(c.taken, c.asked, c.heard); len(vs) > 0 {
			t.Errorf("%+v: %v", c, vs)
		}
	}
	if vs := seats.Audit(); len(vs) > 0 {
		t.Errorf("found %v", vs)
	}
	seats.Counted(1, 6, 7)
	if got := kinds(seats.Audit()); got != string(SeatVanished) {
		t.Errorf("found %q", got)
	}
	if got := kinds(seats.Counted(3, 20, 21)); got != string(OverCapacity) {
		t.Errorf("found %q", got)
	}
}
