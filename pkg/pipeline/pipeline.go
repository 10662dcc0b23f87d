// Package pipeline runs Redis scripts for many callers in few round trips.
//
// A lone call is sent at once. While its answer is on the way, what others ask for is
// collected, and sent together behind it: at 64 callers a script costs both ends a
// quarter of the CPU that it costs when each caller has a connection of its own, since
// most of that is the kernel's work for each packet.
//
//	callers ──Go, Run──▶ queue of a lane ──▶ worker: one batch, one round trip ──▶ Done
package pipeline

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

const (
	batchSize = 256  // calls in one round trip
	queueSize = 4096 // calls that wait for a worker
	workers   = 2
	// Patience is how long a call waits in its queue, and how long a round trip takes, at
	// most.
	Patience = 3 * time.Second
)

// ErrBusy refuses a call that was not sent to Redis: too many wait already, it waited
// for longer than Patience, or the Runner is closed.
var ErrBusy = wire.Errorf(wire.Unavailable, "too many calls are waiting for the store")

// Call is one run of a script.
type Call struct {
	// Lane keeps the order: calls of one lane are run in the order in which they were
	// given. A room's partition is a good one.
	Lane   int
	Script *redis.Script
	Keys   []string
	Args   []any

	// Done is called once with the answer or its error, which is ErrBusy, or what go-redis
	// says. It is called from a worker, or by Go itself where the call is refused at once: it
	// must not block.
	Done func(*redis.Cmd)

	until time.Time // it is not sent after that
}

// Runner runs scripts. Its methods may be called from many goroutines.
type Runner struct {
	rdb    *redis.Client
	queues [workers]chan *Call

	mu     sync.RWMutex // held to send to queues: none is sent to after closed
	closed bool
	ended  sync.WaitGroup
}

// New starts a runner; Close ends it. The caller closes rdb.
func New(rdb *redis.Client) *Runner {
	r := &Runner{rdb: rdb}
	for i := range r.queues {
		r.queues[i] = make(chan *Call, queueSize)
		r.ended.Go(func() { r.work(r.queues[i]) })
	}
	return r
}

// Close lets what is queued be run and waits for it.
func (r *Runner) Close() {
	r.mu.Lock()
	if !r.closed {
		r.closed = true
		for _, q := range r.queues {
			close(q)
		}
	}
	r.mu.Unlock()
	r.ended.Wait()
}

// Go queues a call and returns at once.
func (r *Runner) Go(c *Call) { r.queue(c, time.Now().Add(Patience)) }

func (r *Runner) queue(c *Call, until time.Time) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	c.until = until
	if !r.closed {
		select {
		case r.queues[c.Lane%workers] <- c:
			return
		default:
		}
	}
	c.refuse()
}

func (c *Call) refuse() {
	cmd := redis.NewCmd(context.Background())
	cmd.SetErr(ErrBusy)
	c.Done(cmd)
}

// Run is Go for a caller that waits. The script may be run though ctx ended first, but
// not if that was before it was sent.
func (r *Runner) Run(ctx context.Context, lane int, script *redis.Script, keys []string, args ...any) *redis.Cmd {
	until := time.Now().Add(Patience)
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(until) {
		until = deadline
	}
	done := make(chan *redis.Cmd, 1)
	r.queue(&Call{
		Lane: lane, Script: script, Keys: keys, Args: args,
		Done: func(cmd *redis.Cmd) { done <- cmd },
	}, until)
	select {
	case cmd := <-done:
		return cmd
	case <-ctx.Done():
		cmd := redis.NewCmd(ctx)
		cmd.SetErr(ctx.Err())
		return cmd
	}
}

func (r *Runner) work(queue <-chan *Call) {
	batch := make([]*Call, 0, batchSize)
	for c := range queue {
		batch = append(batch[:0], c)
	more:
		for len(batch) < batchSize {
			select {
			case c, ok := <-queue:
				if !ok {
					break more
				}
				batch = append(batch, c)
			default:
				break more
			}
		}
		r.flush(batch)
		clear(batch)
	}
}

// flush runs a batch in one round trip, and once more where Redis did not know a
// script (it forgets them when it restarts): such a call did nothing. Calls that waited
// too long, while Redis was silent, are refused: their callers gave up.
func (r *Runner) flush(batch []*Call) {
	now := time.Now()
	batch = slices.DeleteFunc(batch, func(c *Call) bool {
		late := now.After(c.until)
		if late {
			c.refuse()
		}
		return late
	})
	if len(batch) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	unknown := r.send(ctx, batch)
	if len(unknown) == 0 {
		return
	}
	if err := r.load(ctx, unknown); err != nil {
		for _, c := range unknown {
			cmd := redis.NewCmd(ctx)
			cmd.SetErr(err)
			c.Done(cmd)
		}
		return
	}
	for _, c := range r.send(ctx, unknown) {
		c.refuse() // forgotten again within a millisecond
	}
}

// send runs calls and tells their callers. It answers with those whose script Redis
// does not know.
func (r *Runner) send(ctx context.Context, batch []*Call) (unknown []*Call) {
	pipe := r.rdb.Pipeline()
	cmds := make([]*redis.Cmd, len(batch))
	for i, c := range batch {
		cmds[i] = c.Script.EvalSha(ctx, pipe, c.Keys, c.Args...)
	}
	_, err := pipe.Exec(ctx)
	for i, c := range batch {
		if err != nil && cmds[i].Err() == nil && cmds[i].Val() == nil {
			cmds[i].SetErr(err) // there was no connection to send it on
		}
		if redis.HasErrorPrefix(cmds[i].Err(), "NOSCRIPT") {
			unknown = append(unknown, c)
			continue
		}
		c.Done(cmds[i])
	}
	return unknown
}

func (r *Runner) load(ctx context.Context, calls []*Call) error {
	var loaded []*redis.Script
	for _, c := range calls {
		if slices.Contains(loaded, c.Script) {
			continue
		}
		if err := c.Script.Load(ctx, r.rdb).Err(); err != nil {
			return err
		}
		loaded = append(loaded, c.Script)
	}
	return nil
}
