package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/audit"
)

const (
	// seatBack is how long a seat may stay taken after a socket broke (I8).
	seatBack = 17 * time.Second
	// clockSlack is how much earlier a lease or permit may end than we calculate: Redis
	// counts whole milliseconds by its own clock.
	clockSlack = 250 * time.Millisecond
	// hangover is how long the service may still carry out a join that its caller gave up.
	hangover = 5 * time.Second
	// strayFor is the same for a reservation: a process that stood still, perhaps for
	// longer than a lease, may make it afterwards.
	strayFor = 17 * time.Second
	never    = time.Duration(math.MaxInt64)
)

// place is a room of the run, over all lives of its id.
type place struct {
	spec    client.RoomSpec
	counted bool

	mu     sync.Mutex // guards what follows
	lives  map[string]*audit.Room
	seats  *audit.Seats
	holds  map[string][]*hold       // by user
	broke  map[string]time.Duration // by user: when the socket broke, unless the user came back since
	claims map[string]*claim        // by user
	last   time.Duration            // when a user last broke off or got a permit
}

// hold is a seat that is certainly taken, from the moment from to the earlier of sure and
// until.
type hold struct {
	permit            bool
	from, sure, until time.Duration
}

// claim says until when a user may have a seat. A hold is what is certain; a claim is what
// cannot be excluded. Zero means not at all.
type claim struct {
	seat    time.Duration
	permit  time.Duration
	unknown time.Duration // by a join whose outcome is not known
}

func newPlace(id string, index, capacity int) *place {
	p := &place{
		spec:  client.RoomSpec{RoomID: id, Title: "load check", Capacity: capacity, Presence: "full", EmptyTimeout: 30 * time.Second},
		lives: make(map[string]*audit.Room), seats: audit.NewSeats(id, capacity), holds: make(map[string][]*hold),
		broke: make(map[string]time.Duration), claims: make(map[string]*claim),
	}
	if index%2 == 0 {
		p.spec.DepartureTimeout = 2 * time.Second // the others are deleted with their last seat
	}
	if index%8 == 7 || capacity > wire.DefaultFullUpTo {
		p.counted, p.spec.Presence = true, "count"
	}
	return p
}

// create creates the room unless it exists.
func (p *place) create(ctx context.Context, c *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.CreateRoom(ctx, p.spec)
	if errors.Is(err, &wire.Error{Code: wire.RoomExists}) {
		return nil
	}
	return err
}

// life returns the checker of one life. The caller holds the mutex.
func (p *place) life(epoch string) *audit.Room {
	l := p.lives[epoch]
	if l == nil {
		l = audit.NewRoom(audit.Life{RoomID: p.spec.RoomID, Epoch: epoch, Capacity: p.spec.Capacity, Counted: p.counted})
		p.lives[epoch] = l
	}
	return l
}

// saw takes a frame that a member received. If the frame tells that the seat of a user whose
// socket broke is free, back is how long that took; otherwise it is 0.
func (p *place) saw(epoch string, f wire.ServerFrame, now time.Duration) (back time.Duration, vs []audit.Violation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.Type == wire.TypeMemberLeft && f.Reason == wire.ReasonLost && f.Member != nil {
		if at, ok := p.broke[f.Member.UserID]; ok {
			back = now - at
			delete(p.broke, f.Member.UserID)
		}
	}
	return back, p.life(epoch).Saw(f)
}

// revoke notes that a message must not be accepted, and why.
func (p *place) revoke(epoch, id, why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.life(epoch).Revoke(id, why)
}

// acts notes that a user is about to do something that may give up or transfer what they
// hold: only the permit, or the seat too.
func (p *place) acts(user string, now time.Duration, permitOnly bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.holds[user] {
		if h.permit || !permitOnly {
			h.until = min(h.until, now)
		}
	}
}

// certain says until when a user certainly has a seat, and a permit for it.
type certain struct{ seat, permit time.Duration }

// had returns what a user certainly has. The caller holds the mutex.
func (p *place) had(user string, now time.Duration) (c certain) {
	for _, h := range p.holds[user] {
		if h.until <= now {
			continue
		}
		c.seat = max(c.seat, h.sure)
		if h.permit {
			c.permit = max(c.permit, h.sure)
		}
	}
	return c
}

// tries notes that a user may get a seat from now on, and returns what they had.
func (p *place) tries(user string, now time.Duration) certain {
	p.mu.Lock()
	had := p.had(user, now)
	delete(p.broke, user)
	p.claim(user).unknown = never
	p.mu.Unlock()
	p.acts(user, now, false)
	return had
}

// denied returns a violation if err refuses a seat that the user certainly had when the
// refusal was heard.
func (p *place) denied(user string, had certain, heard time.Duration, err error) []audit.Violation {
	refusal, ok := errors.AsType[*wire.Error](err)
	if !ok {
		return nil
	}
	switch refusal.Code {
	case wire.RoomFull, wire.RoomNotFound:
		ok = heard < had.seat
	case wire.PermitExpired:
		ok = heard < had.permit
	default:
		ok = false
	}
	if !ok {
		return nil
	}
	return []audit.Violation{{
		Kind: audit.SeatVanished, RoomID: p.spec.RoomID, Count: 1,
		Detail: fmt.Sprintf("%s to %s, who has a seat for %v yet, %v into the run", refusal.Code, user,
			(had.seat - heard).Round(time.Millisecond), heard.Round(time.Millisecond)),
	}}
}

// failed notes that the try got no seat or, if it was not refused, that its outcome is not
// known.
func (p *place) failed(user string, now time.Duration, refused bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.claim(user)
	c.unknown = 0
	if !refused {
		c.unknown = now + hangover + seatBack
		p.last = max(p.last, now+hangover)
	}
}

// claim returns what a user may have. The caller holds the mutex.
func (p *place) claim(user string) *claim {
	c := p.claims[user]
	if c == nil {
		c = new(claim)
		p.claims[user] = c
	}
	return c
}

// reserved notes that a user asked for a permit and when the answer was heard. If certain is
// false, no clear answer came, and the user may get the permit later.
func (p *place) reserved(user string, asked, heard, ttl time.Duration, certain bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if certain {
		p.holds[user] = append(p.holds[user], &hold{permit: true, from: heard, sure: asked + ttl - clockSlack, until: never})
	} else {
		heard += strayFor
	}
	p.claim(user).permit = heard + ttl
	p.last = max(p.last, heard)
}

// seated notes that a user got a seat and, if used is set, that the permit was used for it.
func (p *place) seated(user string, asked, heard time.Duration, used bool) *hold {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := &hold{from: heard, sure: asked + wire.Lease - clockSlack, until: never}
	p.holds[user] = append(p.holds[user], h)
	c := p.claim(user)
	c.seat, c.unknown = never, 0
	if used {
		c.permit = 0
	}
	return h
}

// proved notes that a seat was held at that moment.
func (p *place) proved(h *hold, at time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h.sure = max(h.sure, at)
}

// lost notes that a user's connection ended without giving the seat up for certain.
func (p *place) lost(user string, now time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broke[user] = now
	p.claim(user).seat = now + seatBack
	p.last = max(p.last, now)
}

// freed notes that the service confirmed the end of a seat, or of a permit.
func (p *place) freed(user string, permit bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if permit {
		p.claim(user).permit = 0
	} else {
		p.claim(user).seat = 0
	}
}

// mayBeTaken returns how many seats may be reserved or occupied at that moment.
func (p *place) mayBeTaken(now time.Duration) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, c := range p.claims {
		if max(c.seat, c.permit, c.unknown) > now {
			n++
		}
	}
	return n
}

// counts asks the service how many seats of the room are taken: none if there is no room.
func (p *place) counts(ctx context.Context, c *client.Client, clock func() time.Duration) (taken int, asked, heard time.Duration, vs []audit.Violation, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	asked = clock()
	room, err := c.Room(ctx, p.spec.RoomID)
	heard = clock()
	if err != nil && !errors.Is(err, &wire.Error{Code: wire.RoomNotFound}) {
		return 0, asked, heard, nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	taken = room.Reserved + room.Occupied
	return taken, asked, heard, p.seats.Counted(taken, asked, heard), nil
}

// judge returns the violations that the observations of all users together show.
func (p *place) judge() []audit.Violation {
	p.mu.Lock()
	defer p.mu.Unlock()
	var vs []audit.Violation
	for _, l := range p.lives {
		vs = append(vs, l.Audit()...)
	}
	for user, holds := range p.holds {
		for _, h := range holds {
			p.seats.Held(user, h.from, min(h.sure, h.until))
		}
	}
	return append(vs, p.seats.Audit()...)
}
