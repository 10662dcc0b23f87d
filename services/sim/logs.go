package sim

import (
	"context"
	"encoding/json"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/audit"
)

// logs keeps every room's log as it was published, complete and in order: it follows all
// channels over a connection that no fault strikes.
type logs struct {
	w   *world
	rdb *redis.Client
	sub *redis.PubSub

	mu       sync.Mutex
	lives    map[wire.Position]*audit.Room // by room and epoch (see life)
	newest   map[wire.Position]int64       // seq of the newest entry, by room and epoch
	grown    map[string][]int              // bytes of the frames up to each seq of each room's newest life
	replaced map[string]bool               // sessions whose seats were taken over
	said     []said
	entries  int
	ended    sync.WaitGroup
}

// life returns a key for one life of a room: room id and epoch.
func life(roomID, epoch string) wire.Position { return wire.Position{Epoch: roomID + " " + epoch} }

func newLogs(w *world) *logs {
	return &logs{w: w, lives: make(map[wire.Position]*audit.Room), newest: make(map[wire.Position]int64), grown: make(map[string][]int), replaced: make(map[string]bool)}
}

// follow starts to follow the channels. When it returns, nothing that is published from then
// on can be missed.
func (l *logs) follow() error {
	l.rdb = redis.NewClient(roomlog.Tune(&redis.Options{
		Addr:   "redis:6379",
		Dialer: func(context.Context, string, string) (net.Conn, error) { return l.w.redis.Dial() },
	}))
	l.sub = l.rdb.PSubscribe(context.Background(), "ar:*:events")
	if _, err := l.sub.Receive(context.Background()); err != nil {
		return err
	}
	l.ended.Go(func() {
		for {
			m, err := l.sub.ReceiveMessage(context.Background())
			if err != nil {
				return
			}
			l.published(m)
		}
	})
	return nil
}

func (l *logs) close() {
	_ = l.sub.Close()
	_ = l.rdb.Close()
	l.ended.Wait()
}

func (l *logs) room(roomID, epoch string) *audit.Room {
	key := life(roomID, epoch)
	if l.lives[key] == nil {
		shape := l.w.shape(roomID)
		l.lives[key] = audit.NewRoom(audit.Life{
			RoomID: roomID, Epoch: epoch, Capacity: shape.Capacity, Counted: shape.Counted, Complete: true,
		})
	}
	return l.lives[key]
}

// published takes an event from a room's channel.
func (l *logs) published(m *redis.Message) {
	e, err := roomlog.ParseEvent(m.Payload)
	roomID, ok := roomOfKey(m.Channel)
	if err != nil || !ok {
		l.w.tell("log", "%s: %q: %v", m.Channel, m.Payload, err)
		return
	}
	l.w.note("log   %s %c %d %.200s", roomID, e.Kind, e.Seq, e.Data)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch e.Kind {
	case roomlog.KindReplaced, roomlog.KindRemoved:
		l.replaced[string(e.Data)] = true
	case roomlog.KindMessage, roomlog.KindJoined, roomlog.KindLeft:
		l.entries++
		l.newest[life(roomID, e.Epoch)] = e.Seq
		l.grow(roomID, e)
		var f wire.ServerFrame
		if err := json.Unmarshal(e.Data, &f); err != nil {
			l.w.tell("log", "room %s seq %d: %v", roomID, e.Seq, err)
			return
		}
		if e.Kind == roomlog.KindMessage {
			l.accepted(roomID, f)
		}
		l.tellAll(l.room(roomID, e.Epoch).Saw(f))
	}
}

// body is the body of the messages that users send. It names the session that sends it.
type body struct {
	Session string `json:"session,omitempty"`
	Pad     string `json:"pad,omitempty"`
}

// said is a message that is in a log.
type said struct {
	room, session string
	seq           int64
	at            time.Time
}

// accepted notes a message that is in the log. It is judged at the end: only then is it
// known how long its session's lease lived.
func (l *logs) accepted(roomID string, f wire.ServerFrame) {
	if f.From.UserID == wire.SystemUser {
		return // the application needs no seat
	}
	var b body
	_ = json.Unmarshal(f.Body, &b) // our users made it
	if l.replaced[b.Session] {
		l.w.tell("I6", "room %s seq %d: a message of session %s, whose seat was taken over", roomID, f.Seq, b.Session)
	}
	l.said = append(l.said, said{roomID, b.Session, f.Seq, f.Time})
}

// saw takes a frame that a user received.
func (l *logs) saw(roomID, epoch string, f wire.ServerFrame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tellAll(l.room(roomID, epoch).Saw(f))
}

func (l *logs) grow(roomID string, e roomlog.Event) {
	sizes := l.grown[roomID]
	if e.Seq == 1 {
		sizes = nil
	}
	before := 0
	if len(sizes) > 0 {
		before = sizes[len(sizes)-1]
	}
	l.grown[roomID] = append(sizes, before+len(e.Data))
}

// ahead returns how many entries the log of the room has from seq first on, and the bytes of
// their frames.
func (l *logs) ahead(roomID string, first int) (entries, bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sizes := l.grown[roomID]
	if first > len(sizes) {
		return 0, 0
	}
	before := 0
	if first > 1 {
		before = sizes[first-2]
	}
	return len(sizes) - first + 1, sizes[len(sizes)-1] - before
}

// last returns the seq of the newest entry in one life of a room.
func (l *logs) last(roomID, epoch string) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.newest[life(roomID, epoch)]
}

func (l *logs) tellAll(found []audit.Violation) {
	for _, v := range found {
		l.w.tell(string(v.Kind.Rule()), "%s", v)
	}
}

// audit replays every log, and checks I6: each message in it was accepted while the lease
// of its session lived.
func (l *logs) audit() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.lives {
		l.tellAll(r.Audit())
	}
	for _, s := range l.said {
		if until, ok := l.w.truth.end(s.session); !ok || !s.at.Before(until) {
			l.w.tell("I6", "room %s seq %d: a message of session %s, whose lease ended at %v", s.room, s.seq, s.session, until)
		}
	}
}

// shape returns how the room with that id is created.
func (w *world) shape(roomID string) RoomShape {
	return w.plan.Rooms[number(strings.TrimPrefix(roomID, "r"))]
}
