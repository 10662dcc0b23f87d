package roomlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/pipeline"
	"github.com/anteroom-chat/anteroom/pkg/redisdb"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// Message is one MESSAGE on its way into a room's log.
type Message struct {
	RoomID       string
	Epoch        string // epoch of the session's room; empty for the application's own messages
	Session      string // the session that sends it; empty for the application's own messages
	User         string
	ID           string    // chosen by the sender; if empty, a retry is delivered again
	Tail         []byte    // wire.MessageTail
	MayWaitUntil time.Time // it may wait until then for others to share its round trip; zero: it does not wait

	// Done is called once, from a goroutine of the runner, or by Publish itself if the
	// message is refused at once. It must not block.
	Done func(Result)
}

// Result is the outcome of a message. Err is UNAVAILABLE if it is not known whether the
// message is in the log, ErrNoSeat if its session has no live lease in the room, and
// ROOM_NOT_FOUND if there is no room.
type Result struct {
	Seq       int64     // position in the log; for a duplicate, that of the first message with this id
	Duplicate bool      // the id was used before, so nothing was appended
	Time      time.Time // for a duplicate: when the first message with this id was appended
	Err       error
}

// ErrNoSeat means that a session holds no seat of the room, or no longer does.
var ErrNoSeat = errors.New("the session holds no seat")

// Publisher appends messages to the logs of rooms, in the order in which it was given them.
type Publisher struct {
	scripts *pipeline.Runner
	layout  Layout
}

// NewPublisher returns a publisher that uses scripts. The caller must close scripts.
func NewPublisher(scripts *pipeline.Runner, layout Layout) *Publisher {
	return &Publisher{scripts: scripts, layout: layout}
}

// Publish queues a message and returns at once. m.Done receives the result.
func (p *Publisher) Publish(m *Message) {
	c := p.call(m)
	c.Done = func(cmd *redis.Cmd) { m.Done(result(m.RoomID, cmd)) }
	p.scripts.Go(c)
}

// PublishWait is like Publish but waits for the result. If ctx ends first, the message may
// still be appended, unless ctx ended before the message was sent to Redis.
func (p *Publisher) PublishWait(ctx context.Context, m Message) (Result, error) {
	r := result(m.RoomID, p.scripts.Wait(ctx, p.call(&m)))
	return r, r.Err
}

func (p *Publisher) call(m *Message) *pipeline.Call {
	k := p.layout.Keys(m.RoomID)
	ids := k.MessageIDs()
	id := m.ID
	if id != "" {
		id = m.User + "\n" + m.ID // user ids have no control characters
	}
	lease := ""
	if m.Session != "" {
		lease = Lease(m.RoomID, m.Session)
	}
	return &pipeline.Call{
		Script:       messageScript,
		Keys:         []string{k.Room(), k.Log(), k.Leases(), ids[0], ids[1]},
		Args:         []any{k.Channel(), m.Epoch, lease, id, m.Tail},
		MayWaitUntil: m.MayWaitUntil,
	}
}

func result(roomID string, cmd *redis.Cmd) Result {
	answer, err := cmd.Int64Slice()
	if err != nil {
		return Result{Err: redisdb.Fault("append to log", err)}
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
