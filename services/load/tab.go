package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/audit"
)

// tab is one connection of a user that joined a room. One goroutine reads it.
type tab struct {
	storm *storm
	user  *user
	place *place
	epoch string
	hold  *hold

	session *client.Session
	pongs   chan struct{}  // buffers one
	done    chan struct{}  // closed when the reader has ended
	end     wire.CloseCode // set before done is closed

	mu     sync.Mutex // guards what follows
	member *audit.Member
	ending bool // we end it, so how it ends is not counted
	taken  bool // another tab took the seat over, or is about to
}

// open joins p with a new tab. member goes on from its earlier connection, which must have
// ended. open counts the error that it returns.
func (u *user) open(p *place, o client.JoinOptions, member *audit.Member) (*tab, error) {
	s := u.storm
	ctx, cancel := context.WithTimeout(s.hard, callTimeout)
	defer cancel()
	o.RoomID = p.spec.RoomID
	asked := s.clock()
	had := p.tries(u.id.UserID, asked)
	session, err := u.client().Join(ctx, o)
	heard := s.clock()
	if err != nil {
		s.tally.found(p.denied(u.id.UserID, had, heard, err)...)
		refused := u.failed(err)
		p.failed(u.id.UserID, heard, refused)
		return nil, err
	}
	f := joinedFrame(session.Joined())
	t := &tab{
		storm: s, user: u, place: p, epoch: f.Epoch, session: session, member: member,
		pongs: make(chan struct{}, 1), done: make(chan struct{}),
	}
	t.hold = p.seated(u.id.UserID, asked, heard, o.Permit != "")
	s.tally.add(func(r *Report) { r.Admitted++ })
	s.tally.found(member.Joined(f, o.After)...)
	t.saw(f)
	s.tabs.Store(t, struct{}{})
	s.readers.Go(t.read)
	return t, nil
}

func joinedFrame(j wire.Joined) wire.ServerFrame {
	return wire.ServerFrame{
		Type: wire.TypeJoined, RoomID: j.RoomID, Epoch: j.Epoch, Seq: j.Seq, UserID: j.UserID, SessionID: j.SessionID,
		Capacity: j.Capacity, Occupied: j.Occupied, Members: j.Members, Recovered: j.Recovered,
	}
}

func (t *tab) saw(f wire.ServerFrame) {
	back, vs := t.place.saw(t.epoch, f, t.storm.clock())
	t.storm.tally.found(vs...)
	if back > 0 {
		t.storm.tally.back(back, false)
	}
}

// read takes every frame until the connection ends.
func (t *tab) read() {
	defer close(t.done)
	for {
		f, err := t.session.Receive(context.Background())
		if err == nil {
			t.frame(f)
			continue
		}
		end, ok := errors.AsType[*client.CloseError](err)
		if !ok { // not a valid frame
			t.storm.tally.failed(err)
			t.session.Abort()
			continue
		}
		t.ended(end.Code)
		return
	}
}

// frame judges one frame.
func (t *tab) frame(f wire.ServerFrame) {
	t.mu.Lock()
	receipt := t.member.Received(f)
	t.mu.Unlock()
	tally := t.storm.tally
	tally.found(receipt.Violations...)
	if !receipt.Accepted.IsZero() {
		t.place.proved(t.hold, receipt.Accepted.Sub(t.storm.began))
	}
	switch {
	case receipt.Entry:
		tally.deliveries.Add(1)
		if f.Type == wire.TypeMessage && f.From != nil && f.From.UserID == t.user.id.UserID {
			tally.echoed.Add(1)
		}
		t.saw(f)
	case f.Type == wire.TypeOccupancy:
		t.saw(f)
	case f.Type == wire.TypeGap:
		tally.gaps.Add(1)
	case f.Type == wire.TypeError:
		tally.add(func(r *Report) { r.MessagesRefused[f.Code]++ })
	case f.Type == wire.TypePong:
		select {
		case t.pongs <- struct{}{}:
		default:
		}
	}
}

// ended notes how the connection ended.
func (t *tab) ended(code wire.CloseCode) {
	t.end = code
	t.storm.tabs.Delete(t)
	t.mu.Lock()
	ours, taken := t.ending, t.taken
	t.mu.Unlock()
	if ours {
		return
	}
	t.storm.tally.add(func(r *Report) { r.Closes[closeName(code)]++ })
	if !taken {
		t.place.lost(t.user.id.UserID, t.storm.clock())
	}
}

func closeName(code wire.CloseCode) string {
	if code == client.CloseAbnormal {
		return "1006 BROKEN"
	}
	return fmt.Sprintf("%d %s", uint16(code), code)
}

// alive reports whether the connection has not ended yet.
func (t *tab) alive() bool {
	select {
	case <-t.done:
		return false
	default:
		return true
	}
}

// send writes a MESSAGE. An error shows as the end of the connection.
func (t *tab) send(id string, body any) {
	ctx, cancel := context.WithTimeout(t.storm.hard, wire.SendTimeout)
	defer cancel()
	t.mu.Lock()
	t.member.Sent(id, time.Now())
	t.mu.Unlock()
	if t.session.Send(ctx, id, body) == nil {
		t.storm.tally.sent.Add(1)
	}
}

// ping writes a PING. An error shows as the end of the connection.
func (t *tab) ping(ctx context.Context) {
	t.mu.Lock()
	t.member.Pinged(time.Now())
	t.mu.Unlock()
	_ = t.session.Ping(ctx)
}

// hand notes whether another tab takes the seat over. It reports whether this tab has
// ended meanwhile.
func (t *tab) hand(over bool) (ended bool) {
	t.mu.Lock()
	t.taken = over
	t.mu.Unlock()
	return !t.alive()
}

// stop notes that we end the connection, whether that gives the seat up or not.
func (t *tab) stop() {
	t.mu.Lock()
	t.ending = true
	t.mu.Unlock()
}

// leave gives the seat up, and reports whether the service confirmed it.
func (t *tab) leave() bool {
	t.stop()
	t.place.acts(t.user.id.UserID, t.storm.clock(), false)
	ctx, cancel := context.WithTimeout(t.storm.hard, callTimeout)
	defer cancel()
	err := t.session.Leave(ctx)
	<-t.done
	if err != nil {
		t.storm.tally.error("leave: " + errorKind(err))
		t.place.lost(t.user.id.UserID, t.storm.clock())
		return false
	}
	t.place.freed(t.user.id.UserID, false)
	return true
}

// shut closes with a code that gives the seat up. It is not certain that it did: the other
// side may have been gone already.
func (t *tab) shut(code wire.CloseCode) {
	t.stop()
	t.place.acts(t.user.id.UserID, t.storm.clock(), false)
	_ = t.session.Close(code) // the reader sees how it ended
	t.session.Abort()
	<-t.done
	t.place.lost(t.user.id.UserID, t.storm.clock())
}

// cut breaks the connection: the seat stays taken for the rest of its lease.
func (t *tab) cut() {
	t.stop()
	t.session.Abort()
	<-t.done
	t.place.lost(t.user.id.UserID, t.storm.clock())
}

// after returns the position from which a rejoin continues.
func (t *tab) after() *wire.Position {
	t.mu.Lock()
	defer t.mu.Unlock()
	pos := t.member.Position()
	return &pos
}

// replaced watches a tab whose seat another tab took over. If it still answers a PING 17 s
// (seatBack) later, that is a violation.
func (t *tab) replaced() {
	select {
	case <-t.done:
		return
	case <-t.storm.hard.Done():
		return
	case <-time.After(seatBack):
	}
	ctx, cancel := context.WithTimeout(t.storm.hard, callTimeout)
	defer cancel()
	select {
	case <-t.pongs: // drop an old one
	default:
	}
	t.ping(ctx)
	select {
	case <-t.pongs:
		t.storm.tally.found(audit.Violation{
			Kind: audit.ReplacedLives, RoomID: t.place.spec.RoomID, Epoch: t.epoch, Count: 1,
			Detail: fmt.Sprintf("session %s answers PING %v after another took its seat over", t.session.Joined().SessionID, seatBack),
		})
	case <-t.done:
	case <-ctx.Done():
	}
}

// handed reports whether another tab has the seat.
func (t *tab) handed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.taken
}
