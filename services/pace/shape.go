package pace

import (
	"fmt"
	"strings"
	"time"
)

// Kind says what the members of a shape do.
type Kind int

// The kinds.
const (
	Paced Kind = iota // messages at a fixed rate, whatever became of those before
	Burst             // a few members of each room send as fast as their own messages come back
	Idle              // nothing
	Join              // nothing: the joins themselves are measured
)

// Shape is one kind of load.
type Shape struct {
	Name  string
	Kind  Kind
	Rooms int
	Size  int     // members of a room
	Rate  float64 // messages a second in all rooms together, if Paced
	// If Burst: senders in each room, and messages that each has in flight.
	Senders, InFlight int

	Least time.Duration // shortest window, even if the configuration has a shorter one

	Goal Goal
}

// Goal is what a shape should reach on a quiet machine. Fields that are 0 do not count.
type Goal struct {
	Ratio      float64       // server CPU a delivery, at most, as a multiple of the raw write
	P99        time.Duration // at most
	Deliveries float64       // a second, at least
	CPU        float64       // of one core, in all processes together, at most
	Memory     int64         // bytes of the gateways' RSS a member, at most
	Joins      float64       // a second, at least
	JoinCPU    time.Duration // in all processes together, at most
}

// shapes are all shapes in the order of the table. The second part shows how costs grow:
// the same deliveries a second to ten times as many members.
var shapes = []Shape{
	{Name: "small", Rooms: 500, Size: 4, Rate: 4000, Goal: Goal{Ratio: 2.5, P99: 5 * time.Millisecond}},
	{Name: "medium", Rooms: 100, Size: 20, Rate: 2000, Goal: Goal{Ratio: 1.5, P99: 5 * time.Millisecond}},
	{Name: "big", Rooms: 1, Size: 1000, Rate: 50, Goal: Goal{Ratio: 1.25, P99: 5 * time.Millisecond}},
	{Name: "hot", Rooms: 1, Size: 200, Rate: 2000, Goal: Goal{Ratio: 0.25, P99: 50 * time.Millisecond, Deliveries: 396_000}},
	{Name: "burst", Kind: Burst, Rooms: 100, Size: 20, Senders: 2, InFlight: 8, Goal: Goal{Deliveries: 300_000}},
	{Name: "idle", Kind: Idle, Rooms: 2500, Size: 4, Least: idleWindow, Goal: Goal{CPU: 0.03, Memory: 10 << 10}},
	{Name: "join", Kind: Join, Rooms: 2500, Size: 4, Goal: Goal{Joins: 3000, JoinCPU: 300 * time.Microsecond, P99: 60 * time.Millisecond}},

	{Name: "small-1k", Rooms: 250, Size: 4, Rate: 2000},
	{Name: "small-10k", Rooms: 2500, Size: 4, Rate: 2000},
	{Name: "medium-1k", Rooms: 50, Size: 20, Rate: 1000},
	{Name: "medium-10k", Rooms: 500, Size: 20, Rate: 1000},
	{Name: "big-1k", Rooms: 1, Size: 1000, Rate: 20},
	{Name: "big-10k", Rooms: 1, Size: 10_000, Rate: 2},
	{Name: "idle-1k", Kind: Idle, Rooms: 250, Size: 4, Least: idleWindow},
}

// goals is how many shapes have goals. They come first; the others show how costs grow.
const goals = 7

// ShapeNames returns the names of all shapes, in the order of the table.
func ShapeNames() []string {
	var names []string
	for _, s := range shapes {
		names = append(names, s.Name)
	}
	return names
}

// Shapes finds shapes by name, comma-separated: one of ShapeNames, "goals" for those
// that have goals, "grow" for the others, or "all".
func Shapes(names string) ([]Shape, error) {
	var found []Shape
	for name := range strings.SplitSeq(names, ",") {
		switch name = strings.TrimSpace(name); name {
		case "all":
			found = append(found, shapes...)
		case "goals":
			found = append(found, shapes[:goals]...)
		case "grow":
			found = append(found, shapes[goals:]...)
		default:
			s, err := shapeNamed(name)
			if err != nil {
				return nil, err
			}
			found = append(found, s)
		}
	}
	return found, nil
}

func shapeNamed(name string) (Shape, error) {
	for _, s := range shapes {
		if s.Name == name {
			return s, nil
		}
	}
	return Shape{}, fmt.Errorf("no shape is called %q: there are %s, and goals, grow, all",
		name, strings.Join(ShapeNames(), ", "))
}

func (s Shape) members() int { return s.Rooms * s.Size }

func (s Shape) check() error {
	if s.Rooms < 1 || s.Size < 1 || s.Kind == Paced && s.Rate <= 0 {
		return fmt.Errorf("shape %q has %d rooms of %d and %v messages/s", s.Name, s.Rooms, s.Size, s.Rate)
	}
	if s.Kind == Burst && (s.Senders < 1 || s.Senders > s.Size || s.InFlight < 1) {
		return fmt.Errorf("shape %q has %d senders of %d messages in rooms of %d", s.Name, s.Senders, s.InFlight, s.Size)
	}
	return nil
}

// turn returns who sends message i: the rooms take turns, and in each room its members do.
func (s Shape) turn(i int) (room, member int) {
	return i % s.Rooms, i / s.Rooms % s.Size
}

// due returns when message i is due, counted from the beginning.
func (s Shape) due(i int) time.Duration {
	return time.Duration(float64(i) * float64(time.Second) / s.Rate)
}
