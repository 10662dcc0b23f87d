package roomlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/pipeline"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// Message is one MESSAGE on its way into a room's log.
type Message struct {
	RoomID  string
	Epoch   string // of the session's room; empty for the application's own messages
	Session string // in whose name; empty for the application's own messages
	User    string
	ID      string    // of the sender; empty: a retry would be delivered again
	Tail    []byte    // wire.MessageTail
	By      time.Time // until when it may wait for others, to be appended in one round trip; zero: not at all

	// Done is called once, from a goroutine of the runner, or by Publish itself where
	// the message is refused at once: it must not block.
	Done func(Result)
}

// Result is what became of a message. Err is UNAVAILABLE when it is not known whether
// the message stands in the log, ErrNoSeat when its session has no live lease in the
// room, and ROOM_NOT_FOUND when there is no room.
type Result struct {
	Seq       int64     // its position in the log; that of the first with its id
	Duplicate bool      // its id was used before: nothing was appended
	Time      time.Time // when the first with its id was appended, where this is a duplicate
	Err       error
}

// ErrNoSeat says that a session holds no seat of the room (any more).
var ErrNoSeat = errors.New("the session holds no seat")

// Publisher appends messages to the logs of rooms, in the order in which they were
// given.
type Publisher struct {
	scripts *pipeline.Runner
	layout  Layout
}

// NewPublisher makes a publisher; the caller closes the runner.
func NewPublisher(scripts *pipeline.Runner, layout Layout) *Publisher {
	return &Publisher{scripts: scripts, layout: layout}
}

// Publish queues a message and returns at once; m.Done tells what became of it.
func (p *Publisher) Publish(m *Message) {
	c := p.call(m)
	c.Done = func(cmd *redis.Cmd) { m.Done(result(m.RoomID, cmd)) }
	p.scripts.Go(c)
}

// PublishWait is Publish for a caller that waits. The message may be appended though
// the context ended first, but not if that was before it was sent to Redis.
func (p *Publisher) PublishWait(ctx context.Context, m Message) (Result, error) {
	r := result(m.RoomID, p.scripts.Wait(ctx, p.call(&m)))
	return r, r.Err
}

func (p *Publisher) call(m *Message) *pipeline.Call {
	k := p.layout.Keys(m.RoomID)
	ids := k.MessageIDs()
	id := m.ID
	if id != "" {
		id = m.User + "\n" + m.ID // user ids hold no control characters
	}
	lease := ""
	if m.Session != "" {
		lease = Lease(m.RoomID, m.Session)
	}
	return &pipeline.Call{
		Script: messageScript,
		Keys:   []string{k.Room(), k.Log(), k.Leases(), ids[0], ids[1]},
		Args:   []any{k.Channel(), m.Epoch, lease, id, m.Tail},
		By:     m.By,
	}
}

func result(roomID string, cmd *redis.Cmd) Result {
	answer, err := cmd.Int64Slice()
	if err != nil {
		return Result{Err: Fault("append to log", err)}
	}
	switch status := answer[0]; status {
	case 0:
		return Result{Seq: answer[1]}
	case 1:
		return Result{Seq: answer[1], Duplicate: true, Time: time.UnixMilli(answer[2]).UTC()}
	case 2:
		return Result{Err: ErrNoSeat}
	case 3:
		return Result{Err: wire.Errorf(wire.RoomNotFound, "there is no room %q", roomID)}
	default:
		return Result{Err: fmt.Errorf("append to log of %s: status %d", roomID, status)}
	}
}
