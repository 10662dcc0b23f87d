package sim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
	"github.com/anteroom-chat/anteroom/services/audit"
)

// patience is how long a user waits for a join, and for the end of a leave.
const patience = 15 * time.Second

// user is one person with any number of tabs. Operations may overlap.
type user struct {
	w        *world
	id       string
	identity string
	client   *client.Client
	pace     pace

	mu      sync.Mutex
	tabs    []*tab // live ones, oldest first
	permits map[int][]string
	last    map[int]wire.Position // how far the user has read each room's log
	slow    map[int]bool          // rooms where the user's last session ended with 4508
	words   int                   // messages sent, for their ids
}

// tab is one session of a user.
type tab struct {
	room    int
	node    int
	session *client.Session
	id      string

	mu      sync.Mutex // guards checker
	checker *audit.Member
	replay  replay // owned by listen
}

func newUser(w *world, i int) (*user, error) {
	id := fmt.Sprintf("u%d", i)
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": id, "exp": time.Now().Add(forever).Unix(),
	}).SignedString([]byte(identityKey))
	if err != nil {
		panic(err) // a constant key
	}
	u := &user{
		w: w, id: id, identity: token, permits: make(map[int][]string), last: make(map[int]wire.Position),
		slow: make(map[int]bool),
	}
	u.client, err = client.New("http://g0", client.WithDialContext(func(ctx context.Context, _, addr string) (net.Conn, error) {
		return w.dialGateway(ctx, u, addr)
	}))
	return u, err
}

func roomID(room int) string { return fmt.Sprintf("r%d", room) }

// actor returns who carries a step out: the user that it names, in the room that it names, or
// else the next user and room for whom there is something to do.
func (w *world) actor(s Step) (*user, Step) {
	n, rooms := len(w.people), len(w.plan.Rooms)
	for i := range n * rooms {
		u, at := w.people[(s.User+i/rooms)%n], s
		at.Room = (s.Room + i) % rooms
		if u.able(at) {
			return u, at
		}
	}
	return w.people[s.User%n], s
}

// able reports whether the user has what the step needs.
func (u *user) able(s Step) bool {
	switch s.Do {
	case "cancel":
		return u.permit(s.Room) != ""
	case "rejoin":
		u.mu.Lock()
		defer u.mu.Unlock()
		_, ok := u.last[s.Room]
		return ok
	case "message", "leave", "close", "break":
		return u.tab(s.Room) != nil
	}
	return true
}

// act carries an operation out and notes how it ended.
func (u *user) act(number int, s Step) {
	ctx, cancel := context.WithTimeout(u.w.ctx, patience)
	defer cancel()
	err := u.do(ctx, number, s)
	outcome := "OK"
	if refusal, ok := errors.AsType[*wire.Error](err); ok {
		outcome = string(refusal.Code)
	} else if errors.Is(err, errNothing) {
		outcome = errNothing.Error()
	} else if err != nil {
		outcome = "not reached"
	}
	if outcome == string(wire.Internal) {
		u.w.tell("internal", "%s %s %s: %v", u.id, s.Do, roomID(s.Room), err)
	}
	u.w.count(u.w.done, s.Do+" "+outcome)
	u.w.note("      %s %s %s: %v", u.id, s.Do, roomID(s.Room), outcome)
}

var errNothing = errors.New("nothing to do")

func (u *user) do(ctx context.Context, number int, s Step) error {
	rooms := roomv1.NewRoomServiceClient(u.w.gateway(s.Node).rooms)
	switch s.Do {
	case "create":
		shape := u.w.plan.Rooms[s.Room]
		presence := roomv1.Presence_PRESENCE_FULL
		if shape.Counted {
			presence = roomv1.Presence_PRESENCE_COUNT
		}
		empty, departure := int32(shape.Empty/time.Second), int32(shape.Departure/time.Second)
		_, err := rooms.CreateRoom(ctx, &roomv1.CreateRoomRequest{
			RoomId: roomID(s.Room), Capacity: int32(shape.Capacity), Presence: presence, EmptyTimeoutSeconds: &empty,
			DepartureTimeoutSeconds: &departure, RequestId: fmt.Sprintf("c%d", number),
		})
		return err
	case "burst":
		return u.burst(ctx, s)
	case "count":
		_, err := rooms.GetRoom(ctx, &roomv1.GetRoomRequest{RoomId: roomID(s.Room)})
		return err
	case "reserve":
		p, err := rooms.ReservePermit(ctx, &roomv1.ReservePermitRequest{RoomId: roomID(s.Room), UserId: u.id})
		if err == nil {
			u.keepPermit(s.Room, p.GetPermit())
		}
		return err
	case "cancel":
		permit := u.permit(s.Room)
		if permit == "" {
			return errNothing
		}
		_, err := rooms.CancelPermit(ctx, &roomv1.CancelPermitRequest{RoomId: roomID(s.Room), Permit: permit})
		return err
	case "join":
		return u.join(ctx, s, u.permit(s.Room), nil)
	case "walkin":
		return u.join(ctx, s, "", nil)
	case "rejoin":
		u.mu.Lock()
		after, ok := u.last[s.Room]
		u.mu.Unlock()
		if !ok {
			return errNothing
		}
		return u.join(ctx, s, "", &after)
	}
	return u.part(ctx, s)
}

// part carries out an operation that needs a tab.
func (u *user) part(ctx context.Context, s Step) error {
	t := u.tab(s.Room)
	if s.Do == "message" && s.Node%2 == 0 {
		t = u.oldestTab(s.Room) // a newer one may have replaced it
	}
	if t == nil {
		return errNothing
	}
	switch s.Do {
	case "message":
		return u.say(ctx, t, 0)
	case "leave":
		u.drop(t)
		err := t.session.Leave(ctx)
		if err == nil {
			u.w.truth.gaveUp(t.id)
		}
		return err
	case "close":
		u.drop(t)
		return t.session.Close(wire.CloseNormal)
	default: // break
		u.drop(t)
		t.session.Abort()
		return nil
	}
}

// say sends a message with a body of about so many bytes.
func (u *user) say(ctx context.Context, t *tab, bytes int) error {
	u.mu.Lock()
	u.words++
	id := fmt.Sprintf("%s-%d", u.id, u.words)
	u.mu.Unlock()
	t.mu.Lock()
	t.checker.Sent(id, time.Now())
	t.mu.Unlock()
	return t.session.Send(ctx, id, body{Session: t.id, Pad: strings.Repeat("x", bytes)})
}

func (u *user) keepPermit(room int, permit string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !slices.Contains(u.permits[room], permit) {
		u.permits[room] = append(u.permits[room], permit)
	}
}

// permit returns the newest permit, which may have been used or have lapsed; "" for none.
func (u *user) permit(room int) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if held := u.permits[room]; len(held) > 0 {
		return held[len(held)-1]
	}
	return ""
}

// tab returns the newest tab in a room, nil for none.
func (u *user) tab(room int) *tab {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, t := range slices.Backward(u.tabs) {
		if t.room == room {
			return t
		}
	}
	return nil
}

func (u *user) oldestTab(room int) *tab {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, t := range u.tabs {
		if t.room == room {
			return t
		}
	}
	return nil
}

func (u *user) drop(t *tab) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.tabs = slices.DeleteFunc(u.tabs, func(o *tab) bool { return o == t })
}

func (u *user) join(ctx context.Context, s Step, permit string, after *wire.Position) error {
	session, err := u.client.Join(ctx, client.JoinOptions{
		RoomID: roomID(s.Room), Permit: permit, Identity: u.identity, After: after,
		BaseURL: fmt.Sprintf("http://g%d", s.Node%u.w.cfg.Gateways),
	})
	if err != nil {
		if wire.CodeOf(err) == wire.PermitExpired {
			u.mu.Lock()
			u.permits[s.Room] = slices.DeleteFunc(u.permits[s.Room], func(p string) bool { return p == permit })
			u.mu.Unlock()
		}
		return err
	}
	j := session.Joined()
	t := &tab{
		room: s.Room, node: s.Node % u.w.cfg.Gateways, session: session, id: j.SessionID,
		checker: audit.NewMember(roomID(s.Room), true), replay: newReplay(j, after),
	}
	joined := wire.ServerFrame{
		Type: wire.TypeJoined, RoomID: j.RoomID, Epoch: j.Epoch, Seq: j.Seq, UserID: j.UserID, SessionID: j.SessionID,
		Capacity: j.Capacity, Occupied: j.Occupied, Members: j.Members, Recovered: j.Recovered,
	}
	u.w.log.tellAll(t.checker.Joined(joined, after))
	u.w.log.saw(j.RoomID, j.Epoch, joined)
	u.mu.Lock()
	u.tabs = append(u.tabs, t)
	cameBack := u.slow[s.Room] && after != nil && after.Epoch == j.Epoch
	delete(u.slow, s.Room)
	u.mu.Unlock()
	if cameBack {
		u.w.reach(slowBack)
	}
	u.w.background.Go(func() { u.listen(t, j.Epoch) })
	return nil
}

// listen reads the frames of a tab until it ends.
func (u *user) listen(t *tab, epoch string) {
	for f, err := range t.session.Frames(context.Background()) {
		if err != nil {
			u.w.note("      %s in %s: %v", u.id, roomID(t.room), err)
			u.ended(t, err)
			u.drop(t)
			t.session.Abort()
			return
		}
		newest := u.w.log.last(roomID(t.room), epoch)
		t.mu.Lock()
		t.checker.Grew(newest)
		r := t.checker.Received(f)
		t.mu.Unlock()
		u.w.log.tellAll(r.Violations)
		if r.Entry || f.Type == wire.TypeOccupancy {
			u.w.log.saw(roomID(t.room), epoch, f)
		}
		u.mu.Lock()
		u.last[t.room] = t.session.Position()
		u.mu.Unlock()
		u.w.received(t, f, newest)
	}
}

func (u *user) allTabs() []*tab {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.tabs)
}

// cut breaks the connections of all tabs, as a lost network would.
func (u *user) cut() {
	for _, t := range u.allTabs() {
		u.drop(t)
		t.session.Abort()
	}
}

// anyTab returns a live tab, nil for none.
func (u *user) anyTab() *tab {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.tabs) == 0 {
		return nil
	}
	return u.tabs[0]
}
