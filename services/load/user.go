package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/audit"
)

const (
	restMost = time.Second     // between two visits
	stayMean = 2 * time.Second // in a room, before doing something else
	stayMost = 8 * time.Second
	awayMost = 1500 * time.Millisecond // before coming back
	returns  = 5                       // tries to come back

	promptly   = time.Second      // a reservation this fast had no repeated call
	longestWay = 40 * time.Second // for a call that its caller gave up, in a process that stood still
)

// user goes from room to room. One goroutine owns it.
type user struct {
	storm *storm
	id    client.Identity
	index int
	at    int // index of the target
	rng   *rand.Rand
	said  int // messages so far

	unsure time.Duration // clock when a reservation last took long or failed; 0 for never
}

func (u *user) client() *client.Client { return u.storm.crowd.clients[u.at%len(u.storm.crowd.clients)] }

func (u *user) upTo(d time.Duration) time.Duration { return time.Duration(u.rng.Int64N(int64(d))) }

// upToPaced is upTo with d stretched by the pace.
func (u *user) upToPaced(d time.Duration) time.Duration { return u.upTo(u.paced(d)) }

func (u *user) paced(d time.Duration) time.Duration {
	if pace := u.storm.cfg.Pace; pace != 0 {
		return time.Duration(pace * float64(d))
	}
	return d
}

// failed counts an error. After one that is not a refusal, the user goes on to the next
// target.
func (u *user) failed(err error) (refused bool) {
	if refused = u.storm.tally.failed(err); !refused {
		u.at++
	}
	return refused
}

// live visits one room after another until ctx ends. It finishes what it has begun.
func (u *user) live(ctx context.Context) {
	for sleep(ctx, u.upToPaced(restMost)) {
		p := u.storm.places[u.rng.IntN(len(u.storm.places))]
		if u.rng.IntN(100) < 10 {
			u.hesitate(ctx, p)
			continue
		}
		t := u.enter(p)
		for t != nil && u.stay(ctx, t) {
			t = u.turn(ctx, t)
		}
	}
}

// enter joins a room in one of the possible ways. It returns nil if that failed.
func (u *user) enter(p *place) *tab {
	o := client.JoinOptions{Identity: u.id.Identity, Nickname: fmt.Sprint("user ", u.index)}
	switch u.rng.IntN(5) {
	case 0, 1: // a permit, and /chat?permit=…
		return u.enterWithPermit(p, client.JoinOptions{Via: client.ViaPermit})
	case 2: // a permit in JOIN
		return u.enterWithPermit(p, o)
	case 3:
		o.Via = client.ViaQuery
	}
	t, err := u.open(p, o, u.member(p))
	u.missing(p, err)
	return t
}

func (u *user) member(p *place) *audit.Member {
	return audit.NewMember(p.spec.RoomID, u.storm.young)
}

// missing creates the room again if err says that it is gone.
func (u *user) missing(p *place, err error) {
	if errors.Is(err, &wire.Error{Code: wire.RoomNotFound}) {
		if err := p.create(u.storm.hard, u.client()); err != nil {
			u.failed(err)
		}
	}
}

func (u *user) enterWithPermit(p *place, o client.JoinOptions) *tab {
	permit, ok := u.reserve(p)
	if !ok {
		return nil
	}
	o.Permit = permit.Permit
	t, err := u.open(p, o, u.member(p))
	if err == nil && u.rng.IntN(8) == 0 {
		return u.reuse(t, o)
	}
	return t
}

// reserve asks for a permit.
func (u *user) reserve(p *place) (client.Permit, bool) {
	s := u.storm
	ctx, cancel := context.WithTimeout(s.hard, callTimeout)
	defer cancel()
	asked := s.clock()
	p.mu.Lock()
	had := p.had(u.id.UserID, asked)
	p.mu.Unlock()
	permit, err := u.client().Reserve(ctx, u.id.Identity, p.spec.RoomID)
	heard := s.clock()
	if heard-asked > promptly {
		u.unsure = heard
	}
	if err != nil {
		s.tally.found(p.denied(u.id.UserID, had, heard, err)...)
		// The client may have repeated the call. Then the first one may still be carried out,
		// although the second one was refused.
		if !u.failed(err) || heard-asked > promptly {
			u.unsure = heard
			p.reserved(u.id.UserID, asked, heard, wire.PermitTTL, false)
		}
		u.missing(p, err)
		return permit, false
	}
	p.reserved(u.id.UserID, asked, heard, time.Duration(permit.TTLSeconds*float64(time.Second)), true)
	s.tally.add(func(r *Report) { r.Permits++ })
	return permit, true
}

// reuse joins with a permit that was used already, which must fail (I3).
func (u *user) reuse(t *tab, o client.JoinOptions) *tab {
	t.hand(true)
	other, err := u.open(t.place, o, u.member(t.place))
	if err != nil {
		return u.keep(t)
	}
	u.permitWorked(audit.PermitReused, other, "a used permit was confirmed again")
	return other
}

func (u *user) permitWorked(kind audit.Kind, t *tab, detail string) {
	u.storm.tally.found(audit.Violation{
		Kind: kind, RoomID: t.place.spec.RoomID, Epoch: t.epoch, Count: 1,
		Detail: fmt.Sprintf("%s, for %s", detail, u.id.UserID),
	})
}

// keep goes on with a tab whose seat another tab did not take over, as far as we know.
func (u *user) keep(t *tab) *tab {
	if ended := t.hand(false); ended {
		t.place.lost(u.id.UserID, u.storm.clock())
		return nil
	}
	return t
}

// hesitate reserves, and then cancels the permit, lets it lapse, or comes too late with it.
func (u *user) hesitate(ctx context.Context, p *place) {
	permit, ok := u.reserve(p)
	if !ok {
		return
	}
	switch u.rng.IntN(6) {
	case 0: // it lapses
	case 1:
		u.comeLate(ctx, p, permit)
	default:
		sleep(ctx, u.upTo(restMost))
		u.cancel(p, permit)
	}
}

func (u *user) cancel(p *place, permit client.Permit) {
	ctx, cancel := context.WithTimeout(u.storm.hard, callTimeout)
	defer cancel()
	p.acts(u.id.UserID, u.storm.clock(), true)
	if err := u.client().CancelPermit(ctx, permit); err != nil {
		u.failed(err)
		return
	}
	p.freed(u.id.UserID, true)
}

// comeLate joins with a permit that has lapsed, which must fail (I3). An earlier reservation
// of this user that is still on its way could prolong the permit, so then it does nothing.
func (u *user) comeLate(ctx context.Context, p *place, permit client.Permit) {
	if u.unsure > 0 && u.storm.clock()-u.unsure < longestWay {
		return
	}
	if !sleep(ctx, time.Duration(permit.TTLSeconds*float64(time.Second))+time.Second) {
		return
	}
	t, err := u.open(p, client.JoinOptions{Permit: permit.Permit, Via: client.ViaPermit}, u.member(p))
	if err == nil {
		u.permitWorked(audit.PermitLapsed, t, "a permit was confirmed after it had lapsed")
		t.leave()
	}
}

// stay sends messages for a while. It reports false when the storm is over.
func (u *user) stay(ctx context.Context, t *tab) bool {
	until := time.NewTimer(u.paced(min(time.Duration(u.rng.ExpFloat64()*float64(stayMean)), stayMost)))
	defer until.Stop()
	for {
		pause := time.Hour
		if u.storm.cfg.MessageRate > 0 {
			pause = time.Duration(float64(time.Second) / u.storm.cfg.MessageRate * (0.5 + u.rng.Float64()))
		}
		next := time.NewTimer(pause)
		select {
		case <-next.C:
			u.say(t)
			continue
		case <-until.C:
		case <-t.done:
		case <-ctx.Done():
		}
		next.Stop()
		return ctx.Err() == nil
	}
}

// say sends a message, sometimes twice, sometimes a PING instead.
func (u *user) say(t *tab) {
	if u.rng.IntN(10) == 0 {
		ctx, cancel := context.WithTimeout(u.storm.hard, wire.SendTimeout)
		defer cancel()
		t.ping(ctx)
		return
	}
	id := u.newID()
	text := fmt.Sprintf("message %d of user %d", u.said, u.index)
	t.send(id, text)
	if u.rng.IntN(10) == 0 {
		t.send(id, text)
	}
}

func (u *user) newID() string {
	u.said++
	return fmt.Sprintf("u%d-%d", u.index, u.said)
}

// turn ends the tab, or goes on with another one, which it returns.
func (u *user) turn(ctx context.Context, t *tab) *tab {
	if !t.alive() {
		if t.end.Retryable() {
			return u.comeBack(ctx, t)
		}
		return nil
	}
	switch n := u.rng.IntN(100); {
	case n < 30:
		t.leave()
	case n < 36:
		t.shut(wire.CloseNormal)
	case n < 42:
		t.shut(wire.CloseGoingAway)
	case n < 48:
		t.cut()
	case n < 75:
		t.cut()
		return u.comeBack(ctx, t)
	default:
		return u.takeOver(t)
	}
	return nil
}

// comeBack joins again, asks for what was missed, and repeats messages that were not answered.
func (u *user) comeBack(ctx context.Context, t *tab) *tab {
	unanswered := t.member.Unanswered()
	o := client.JoinOptions{Identity: u.id.Identity, After: t.after()}
	for range returns {
		if !sleep(ctx, u.upToPaced(awayMost)) {
			return nil
		}
		next, err := u.open(t.place, o, t.member)
		if err == nil {
			u.storm.tally.add(func(r *Report) { r.Rejoins++ })
			for _, id := range unanswered[:min(len(unanswered), 8)] {
				next.send(id, "said again")
			}
			return next
		}
		if refusal, ok := errors.AsType[*wire.Error](err); ok && !refusal.Code.Translate().Close.Retryable() {
			u.missing(t.place, err)
			return nil
		}
	}
	return nil
}

// takeOver joins from another tab. What the first tab still sends must not be accepted.
func (u *user) takeOver(t *tab) *tab {
	p := t.place
	o := client.JoinOptions{Identity: u.id.Identity}
	switch u.rng.IntN(4) {
	case 0:
		o.Via = client.ViaQuery
	case 1:
		o.After = t.after()
	case 2:
		permit, ok := u.reserve(p)
		if !ok {
			return t
		}
		o.Permit = permit.Permit
	}
	t.hand(true)
	next, err := u.open(p, o, u.member(p))
	if err != nil {
		return u.keep(t)
	}
	u.storm.tally.add(func(r *Report) { r.Takeovers++ })
	id := u.newID()
	p.revoke(t.epoch, id, "sent by session "+t.session.Joined().SessionID+" after another had taken its seat over")
	t.send(id, "am I still here?")
	u.storm.watchers.Go(t.replaced)
	return next
}
