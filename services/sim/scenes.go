package sim

import (
	"math/rand/v2"
	"time"
)

// A scene is a sequence of steps about one room, which leads to what single steps hardly lead
// to: a user misses many messages and comes back, or reads slowly, or its gateway misses them;
// or a crowd comes. A plan has one scene. Other steps come in between, but no faults that are
// not the scene's own.

const (
	scenesOf  = 20                      // of so many seeds,
	crowded   = 4                       // so many have a crowd,
	overflown = 5                       // and so many a burst that is more than history keeps
	crowd     = restingFrom + 3         // users of a crowd
	moreSeats = 4                       // in the room of a scene, so that its users hardly find it full
	lull      = 12 * time.Second        // before a scene: most faults are over
	shortest  = 4 * time.Second         // that a user of a scene is slow,
	longest   = 36 * time.Second        // and at most
	atOnce    = 500 * time.Millisecond  // how long a burst lasts at most
	deafLong  = 4000 * time.Millisecond // how long a gateway of a scene hears nothing at most
)

// scene draws the scene of a plan, and makes its room large enough.
func (p *Plan) scene(r *rand.Rand, c Config) []Step {
	d := director{r: r, room: r.IntN(c.Names), node: r.IntN(c.Gateways), who: r.IntN(c.Users), other: r.IntN(c.Users)}
	shape := &p.Rooms[d.room]
	shape.Capacity += moreSeats
	d.steps = append(d.steps, Step{After: lull, Do: "create", User: d.other, Room: d.room, Node: d.node})
	switch n := r.IntN(scenesOf); {
	case n < crowded:
		shape.Capacity += 30
		d.crowded(c.Users)
	case n < crowded+overflown:
		d.missed(1040+r.IntN(60), r.IntN(100), n%2 == 0)
	default:
		d.missed(100+r.IntN(200), 200+r.IntN(2500), r.IntN(3) == 0)
	}
	return d.steps
}

// director puts a scene together.
type director struct {
	r          *rand.Rand
	room, node int
	who, other int // the user whom it is about, and one who is there too
	steps      []Step
}

func (d *director) add(do string, user int) *Step {
	s := Step{After: min(pause(d.r), time.Second), Do: do, User: user, Room: d.room, Node: d.node}
	d.steps = append(d.steps, s)
	return &d.steps[len(d.steps)-1]
}

func (d *director) upTo(t time.Duration) time.Duration {
	return time.Duration(d.r.Int64N(int64(t/time.Millisecond))) * time.Millisecond
}

// slow makes the user slow, and returns for how long.
func (d *director) slow() time.Duration {
	s := d.add("slow-user", d.who)
	s.For, s.Bytes = shortest+d.upTo(longest-shortest), slowPace(d.r)
	return s.For
}

// slowPace returns how many bytes a slow user takes a second: often none.
func slowPace(r *rand.Rand) int {
	if r.IntN(3) == 0 {
		return 0
	}
	return 1000 + r.IntN(9000)
}

func (d *director) burst(messages, bytes int) {
	s := d.add("burst", d.other)
	s.After = min(s.After, atOnce)
	s.Messages, s.Bytes, s.For = messages, bytes, d.upTo(atOnce)
	if s.Node = 0; messages < 200 {
		s.Node = d.r.IntN(2)
	}
}

// missed makes a user or its gateway miss a burst, or the user slow to take it, and the user
// come back.
func (d *director) missed(messages, bytes int, deaf bool) {
	d.add("walkin", d.other)
	d.add("walkin", d.who)
	d.add("message", d.other)
	var slow time.Duration
	switch {
	case deaf:
		faults := []string{"sub-deaf", "sub-deaf", "redis-away", "sub-hang", "sub-cut"}
		d.add(faults[d.r.IntN(len(faults))], 0).For = 2*atOnce + d.upTo(deafLong)
	case d.r.IntN(2) == 0:
		d.add("break", d.who)
	default:
		slow = d.slow()
	}
	d.burst(messages, bytes)
	if slow == 0 && d.r.IntN(2) == 0 {
		slow = d.slow()
	}
	back := d.add("rejoin", d.who)
	if slow > 0 && d.r.IntN(2) == 0 {
		back.After += d.upTo(slow)
	}
	if d.r.IntN(2) == 0 {
		d.burst(20+d.r.IntN(80), bytes)
	}
	d.add("rejoin", d.other)
	d.add("rejoin", d.who).After += d.upTo(slow + 3*time.Second)
}

// crowded fills the room with users from a number on, all on one gateway, and sends bursts.
func (d *director) crowded(from int) {
	for i := range crowd {
		d.add("walkin", from+i).After = d.upTo(8 * time.Millisecond)
	}
	for range 1 + d.r.IntN(2) {
		d.who = from + d.r.IntN(crowd)
		slow := d.slow()
		d.burst(20+d.r.IntN(100), d.r.IntN(1500))
		d.add("rejoin", d.who).After += d.upTo(slow)
	}
}

// users returns how many users the plan has at least.
func (p Plan) users() int {
	n := 0
	for _, s := range p.Steps {
		n = max(n, s.User+1)
	}
	return n
}
