package roomlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// Message is one MESSAGE on its way into a room's log.
type Message struct {
	RoomID  string
	Epoch   string // of the session's room; empty for the application's own messages
	Session string // in whose name; empty for the application's own messages
	User    string
	ID      string // of the sender; empty: a retry would be delivered again
	Tail    []byte // wire.MessageTail

	// Done is called once, from the publisher's goroutine, or by Publish itself where
	// the message is refused at once: it must not block.
	Done func(Result)

	queued time.Time
}

// Result is what became of a message. Err is UNAVAILABLE when it is not known whether
// the message stands in the log, ErrNoSeat when its session has no live lease in the
// room, and ROOM_NOT_FOUND when there is no room.
type Result struct {
	Seq       int64 // its position in the log; that of the first with its id
	Duplicate bool  // its id was used before: nothing was appended
	Err       error
}

// ErrNoSeat says that a session holds no seat of the room (any more).
var ErrNoSeat = errors.New("the session holds no seat")

const (
	publishBatch   = 256  // messages in one round trip to Redis
	publishQueue   = 4096 // messages waiting for a worker
	publishWorkers = 2
	publishTimeout = 3 * time.Second // in the queue, and of a round trip
)

// Publisher appends messages to the logs of rooms, many in one round trip. The
// messages of a room stay in the order in which they were given.
type Publisher struct {
	rdb    *redis.Client
	layout Layout
	queues [publishWorkers]chan *Message

	mu     sync.RWMutex // held to send to queues: none is sent to after closed
	closed bool
	ended  sync.WaitGroup
}

// NewPublisher starts a publisher; Close ends it.
func NewPublisher(rdb *redis.Client, layout Layout) *Publisher {
	p := &Publisher{rdb: rdb, layout: layout}
	for i := range p.queues {
		p.queues[i] = make(chan *Message, publishQueue)
		p.ended.Go(func() { p.work(p.queues[i]) })
	}
	return p
}

// Close lets what is queued be appended and waits for it.
func (p *Publisher) Close() {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		for _, q := range p.queues {
			close(q)
		}
	}
	p.mu.Unlock()
	p.ended.Wait()
}

var errBusy = wire.Errorf(wire.Unavailable, "too many messages are waiting for the room's store")

// Publish queues a message and returns at once; m.Done tells what became of it.
func (p *Publisher) Publish(m *Message) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.closed {
		m.Done(Result{Err: errBusy})
		return
	}
	m.queued = time.Now()
	select {
	case p.queues[p.layout.Partition(m.RoomID)%publishWorkers] <- m:
	default:
		m.Done(Result{Err: errBusy})
	}
}

// PublishWait is Publish for a caller that waits. The message may be appended though
// the context ended first.
func (p *Publisher) PublishWait(ctx context.Context, m Message) (Result, error) {
	done := make(chan Result, 1)
	m.Done = func(r Result) { done <- r }
	p.Publish(&m)
	select {
	case r := <-done:
		return r, r.Err
	case <-ctx.Done():
		return Result{}, Fault("publish", ctx.Err())
	}
}

func (p *Publisher) work(queue <-chan *Message) {
	batch := make([]*Message, 0, publishBatch)
	for m := range queue {
		batch = append(batch[:0], m)
	more:
		for len(batch) < publishBatch {
			select {
			case m, ok := <-queue:
				if !ok {
					break more
				}
				batch = append(batch, m)
			default:
				break more
			}
		}
		p.flush(batch)
		clear(batch)
	}
}

// flush appends a batch in one round trip, and once more where Redis did not know
// the script (it forgets scripts when it restarts): such a call did nothing. Messages
// that waited too long, while Redis was silent, are refused: their senders gave up.
func (p *Publisher) flush(batch []*Message) {
	batch = slices.DeleteFunc(batch, func(m *Message) bool {
		late := time.Since(m.queued) > publishTimeout
		if late {
			m.Done(Result{Err: errBusy})
		}
		return late
	})
	if len(batch) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), publishTimeout)
	defer cancel()
	cmds := p.send(ctx, batch)
	var again []*Message
	for i, m := range batch {
		if redis.HasErrorPrefix(cmds[i].Err(), "NOSCRIPT") {
			again = append(again, m)
			continue
		}
		m.Done(p.result(m, cmds[i]))
	}
	if len(again) == 0 {
		return
	}
	if err := messageScript.Load(ctx, p.rdb).Err(); err != nil {
		for _, m := range again {
			m.Done(Result{Err: Fault("load script", err)})
		}
		return
	}
	cmds = p.send(ctx, again)
	for i, m := range again {
		m.Done(p.result(m, cmds[i]))
	}
}

func (p *Publisher) send(ctx context.Context, batch []*Message) []*redis.Cmd {
	pipe := p.rdb.Pipeline()
	cmds := make([]*redis.Cmd, len(batch))
	for i, m := range batch {
		k := p.layout.Keys(m.RoomID)
		ids := k.MessageIDs()
		id := m.ID
		if id != "" {
			id = m.User + "\n" + m.ID // user ids hold no control characters
		}
		// The first of several brings the script along. Were all refused with NOSCRIPT
		// but those behind the moment in which somebody else loads it, these would
		// overtake the others.
		run := messageScript.EvalSha
		if i == 0 && len(batch) > 1 {
			run = messageScript.Eval
		}
		cmds[i] = run(ctx, pipe,
			[]string{k.Room(), k.Log(), k.Leases(), ids[0], ids[1]},
			k.Channel(), m.Epoch, m.Session, id, m.Tail)
	}
	// Every command carries its own error.
	_, _ = pipe.Exec(ctx)
	return cmds
}

func (p *Publisher) result(m *Message, cmd *redis.Cmd) Result {
	answer, err := cmd.Int64Slice()
	if err != nil {
		return Result{Err: Fault("append to log", err)}
	}
	switch status := answer[0]; status {
	case 0, 1:
		return Result{Seq: answer[1], Duplicate: status == 1}
	case 2:
		return Result{Err: ErrNoSeat}
	case 3:
		return Result{Err: wire.Errorf(wire.RoomNotFound, "there is no room %q", m.RoomID)}
	default:
		return Result{Err: fmt.Errorf("append to log of %s: status %d", m.RoomID, status)}
	}
}
