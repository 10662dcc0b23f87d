package sim

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Step is one thing that happens: an operation of a user or a fault.
type Step struct {
	After time.Duration // since the step before
	Do    string
	User  int
	Room  int
	Node  int           // the gateway that a user goes to, or the process that a fault strikes
	For   time.Duration // how long a fault or a burst lasts, or how much a fault delays
	What  string        // the method, if the fault strikes a call

	Messages int // of a burst
	Bytes    int // of the body of each; or what a slow user takes a second
}

// Operations of users. Each depends on what its user has at that time: a user without a
// seat has nothing to leave.
var operations = map[string]int{ // by weight
	"create": 8, "reserve": 12, "cancel": 4, "join": 26, "walkin": 14, "message": 18,
	"leave": 9, "close": 4, "break": 6, "rejoin": 6, "count": 3,
	"burst": 0, // only in scenes: messages take most of the time
}

// Faults, by weight.
var faults = map[string]int{
	"lose-request": 3, "cut-request": 3, "lose-reply": 4, "cut-reply": 4, "late": 8, "twice": 10,
	"sub-cut": 3, "sub-slow": 2, "sub-hang": 3, "sub-deaf": 3,
	"redis-cut": 4, "redis-lose": 4, "redis-away": 2, "redis-hang": 2,
	"pause-gateway": 3, "pause-rooms": 3, "pause-redis": 1, "pause-users": 1,
	"split": 3, "kill-gateway": 3, "kill-rooms": 2, "lose-gateway": 2, "lose-rooms": 1, "cut-users": 3, "slow-user": 2,
}

// methods that call faults strike, by weight.
var methods = map[string]int{"ConfirmJoin": 5, "Leave": 4, "ReservePermit": 3, "CancelPermit": 2, "RenewLeases": 3, "CreateRoom": 1}

// Config is the shape of a simulation. The zero value is the usual shape.
type Config struct {
	Steps    int     // 220 when 0, of which about a sixth are faults
	Calm     float64 // share of seeds without faults, 0.05 when 0
	Gateways int     // 3
	Rooms    int     // room services: 2
	Users    int     // 10
	Names    int     // ids of rooms: 3
	Trace    bool    // record what happens, in Result.Trace
}

func (c Config) orDefaults() Config {
	set := func(v *int, to int) {
		if *v == 0 {
			*v = to
		}
	}
	set(&c.Steps, 220)
	set(&c.Gateways, 3)
	set(&c.Rooms, 2)
	set(&c.Users, 10)
	set(&c.Names, 3)
	if c.Calm == 0 {
		c.Calm = 0.05
	}
	return c
}

// RoomShape is how the room with one id is created, each time it is.
type RoomShape struct {
	Capacity  int
	Counted   bool
	Empty     time.Duration
	Departure time.Duration
}

// Plan describes a simulation completely: nothing else happens in it.
type Plan struct {
	Seed       uint64 // of the latencies
	Partitions int
	Rooms      []RoomShape
	Steps      []Step
}

// NewPlan makes the plan of a seed.
func NewPlan(seed uint64, c Config) Plan {
	c = c.orDefaults()
	r := rand.New(rand.NewPCG(seed, 0x616e7465726f6f6d))
	p := Plan{Seed: seed, Partitions: 1 + r.IntN(2)}
	for range c.Names {
		shape := RoomShape{Capacity: 1 + r.IntN(4), Counted: r.IntN(4) == 0, Empty: time.Duration(5+r.IntN(40)) * time.Second}
		if r.IntN(4) == 0 {
			shape.Departure = time.Duration(1+r.IntN(20)) * time.Second
		}
		p.Rooms = append(p.Rooms, shape)
	}
	for i := range c.Names { // so that the first joins find something
		p.Steps = append(p.Steps, Step{Do: "create", Room: i, User: i})
	}
	faulty := r.Float64() >= c.Calm
	scene, from := p.scene(r, c), 10+r.IntN(max(c.Steps-60, 1))
	for len(p.Steps) < c.Steps || len(scene) > 0 {
		begun := len(p.Steps) >= from
		if begun && len(scene) > 0 && r.IntN(4) > 0 {
			p.Steps, scene = append(p.Steps, scene[0]), scene[1:]
			continue
		}
		if faulty && !(begun && len(scene) > 0) && r.IntN(6) == 0 {
			p.Steps = append(p.Steps, randomFault(r, c))
			continue
		}
		s := Step{
			After: pause(r), Do: pick(r, operations),
			User: r.IntN(c.Users), Room: r.IntN(c.Names), Node: r.IntN(c.Gateways),
		}
		p.Steps = append(p.Steps, s)
	}
	return p
}

// pause returns the time between two steps: often next to nothing, seldom up to 20 s.
func pause(r *rand.Rand) time.Duration {
	switch n := r.IntN(100); {
	case n < 55:
		return time.Duration(r.IntN(3000)) * time.Microsecond
	case n < 88:
		return time.Duration(r.IntN(400)) * time.Millisecond
	case n < 98:
		return time.Duration(r.IntN(4000)) * time.Millisecond
	default:
		return time.Duration(r.IntN(20000)) * time.Millisecond
	}
}

func randomFault(r *rand.Rand, c Config) Step {
	s := Step{After: time.Duration(r.IntN(200)) * time.Millisecond, Do: pick(r, faults), Node: r.IntN(c.Gateways), User: r.IntN(c.Users)}
	seconds := func(low, high int) time.Duration {
		return time.Duration(low*1000+r.IntN((high-low)*1000)) * time.Millisecond
	}
	switch s.Do {
	case "lose-request", "cut-request", "lose-reply", "cut-reply":
		s.What = pick(r, methods)
	case "late":
		s.What, s.For = pick(r, methods), seconds(0, 12)
	case "twice":
		s.What, s.For = pick(r, methods), seconds(0, 35)
	case "redis-away", "redis-hang":
		s.Node, s.For = r.IntN(c.Gateways+c.Rooms+1), seconds(0, 20)
	case "sub-slow", "sub-hang", "sub-deaf":
		s.For = seconds(0, 20)
	case "redis-cut", "redis-lose":
		s.Node = r.IntN(c.Gateways + c.Rooms)
	case "pause-gateway":
		s.For = seconds(1, 28)
	case "pause-rooms", "kill-rooms", "lose-rooms":
		s.Node, s.For = r.IntN(c.Rooms), seconds(1, 25)
	case "pause-redis", "pause-users":
		s.For = seconds(0, 18)
	case "split":
		s.For = seconds(1, 25)
	case "kill-gateway", "lose-gateway":
		s.For = seconds(0, 20)
	case "slow-user":
		s.For, s.Bytes = seconds(1, 40), slowPace(r)
	}
	return s
}

// pick draws a name by its weight. It goes through the names in order, so that a seed always
// gives the same plan.
func pick(r *rand.Rand, weights map[string]int) string {
	names, total := slices.Sorted(maps.Keys(weights)), 0
	for _, w := range weights {
		total += w
	}
	n := r.IntN(total)
	for _, name := range names {
		if n -= weights[name]; n < 0 {
			return name
		}
	}
	panic("unreachable")
}

// String formats the plan so that ParsePlan can read it.
func (p Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d partitions %d\n", p.Seed, p.Partitions)
	for i, r := range p.Rooms {
		presence := "full"
		if r.Counted {
			presence = "count"
		}
		fmt.Fprintf(&b, "room %d capacity %d presence %s empty %v departure %v\n", i, r.Capacity, presence, r.Empty, r.Departure)
	}
	for _, s := range p.Steps {
		fmt.Fprintln(&b, s)
	}
	return b.String()
}

// String returns the step's line in a plan, with the fields that matter for it.
func (s Step) String() string {
	line := fmt.Sprintf("+%-12v %-13s", s.After, s.Do)
	if _, ok := operations[s.Do]; ok {
		line += fmt.Sprintf(" user %d room %d", s.User, s.Room)
	}
	switch s.Do {
	case "cut-users", "slow-user":
		line += fmt.Sprintf(" user %d", s.User)
	default:
		line += fmt.Sprintf(" node %d", s.Node)
	}
	if s.What != "" {
		line += " call " + s.What
	}
	if s.For != 0 {
		line += fmt.Sprintf(" for %v", s.For)
	}
	if s.Messages != 0 {
		line += fmt.Sprintf(" messages %d", s.Messages)
	}
	if s.Bytes != 0 {
		line += fmt.Sprintf(" bytes %d", s.Bytes)
	}
	return line
}

// ParsePlan parses what String wrote. It ignores lines that begin with #.
func ParsePlan(text string) (Plan, error) {
	var p Plan
	for number, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if len(f) == 0 || f[0][0] == '#' {
			continue
		}
		if err := p.parseLine(f); err != nil {
			return p, fmt.Errorf("plan, line %d: %q: %w", number+1, line, err)
		}
	}
	return p, nil
}

func (p *Plan) parseLine(f []string) error {
	switch {
	case f[0] == "seed" && len(f) == 4:
		var err error
		if p.Seed, err = strconv.ParseUint(f[1], 10, 64); err != nil {
			return err
		}
		p.Partitions, err = strconv.Atoi(f[3])
		return err
	case f[0] == "room" && len(f) == 10:
		var r RoomShape
		_, err := fmt.Sscan(f[3], &r.Capacity)
		r.Counted = f[5] == "count"
		if err == nil {
			r.Empty, err = time.ParseDuration(f[7])
		}
		if err == nil {
			r.Departure, err = time.ParseDuration(f[9])
		}
		p.Rooms = append(p.Rooms, r)
		return err
	}
	s, err := parseStep(f)
	p.Steps = append(p.Steps, s)
	return err
}

func parseStep(f []string) (s Step, err error) {
	if len(f) < 2 || f[0][0] != '+' || len(f)%2 != 0 {
		return s, fmt.Errorf("not a step")
	}
	if s.After, err = time.ParseDuration(f[0][1:]); err != nil {
		return s, err
	}
	s.Do = f[1]
	if _, ok := operations[s.Do]; !ok && faults[s.Do] == 0 {
		return s, fmt.Errorf("nothing is called %q", s.Do)
	}
	for i := 2; i < len(f) && err == nil; i += 2 {
		switch f[i] {
		case "user":
			s.User, err = strconv.Atoi(f[i+1])
		case "room":
			s.Room, err = strconv.Atoi(f[i+1])
		case "node":
			s.Node, err = strconv.Atoi(f[i+1])
		case "call":
			s.What = f[i+1]
		case "for":
			s.For, err = time.ParseDuration(f[i+1])
		case "messages":
			s.Messages, err = strconv.Atoi(f[i+1])
		case "bytes":
			s.Bytes, err = strconv.Atoi(f[i+1])
		default:
			err = fmt.Errorf("no field %q", f[i])
		}
	}
	return s, err
}
