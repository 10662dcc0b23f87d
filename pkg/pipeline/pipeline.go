// Package pipeline runs Redis scripts for many callers in few round trips.
//
// A lone call is sent at once. While its answer is on the way, and for as long again,
// what others ask for is collected, and then sent together: at 64 callers a script costs
// both ends a quarter of the CPU that it costs when each caller has a connection of its
// own, since most of that is the kernel's work for each packet. Those of one script share a
// run of it.
//
//	callers ──Go, Run──▶ queue ──▶ worker: one batch, one round trip ──▶ Done
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
	queueSize = 8192 // calls that wait
	// maxRest bounds how long the worker rests after a round trip. Resting twice as long as
	// that took saves a quarter of all CPU at 2,000 calls/s, and delays a call by half a
	// rest; a call that comes after a rest does not wait.
	maxRest = time.Millisecond
	// Patience is how long a call waits in its queue, and how long a round trip takes, at
	// most.
	Patience = 3 * time.Second
	// MostWait is how long both take together: a call that waited behind a round trip to a
	// silent Redis does not wait for another one in full.
	MostWait = Patience * 3 / 2
)

// ErrBusy refuses a call that was not sent to Redis: too many wait already, it waited
// for longer than Patience or its caller did, or the Runner is closed.
var ErrBusy = wire.Errorf(wire.Unavailable, "too many calls are waiting for the store")

// Redis is what runs scripts, alone and in batches: a *redis.Client.
type Redis interface {
	redis.Scripter
	Pipeline() redis.Pipeliner
}

// Call is one call of a script.
type Call struct {
	Script *Script
	Keys   []string
	Args   []any

	// By is until when the call may wait for others that share its round trip, where none is
	// there that does not wait. Zero: it does not.
	By time.Time

	// Done is called once with the answer or its error, which is ErrBusy, or what go-redis
	// says. It is called from a worker, or by Go itself where the call is refused at once: it
	// must not block.
	Done func(*redis.Cmd)

	ctx    context.Context // of a caller that waits: it is not sent once that has ended
	queued time.Time
	until  time.Time // by when it is sent, or not at all
}

// Runner runs the calls of a script in the order in which they were given. Its methods may
// be called from many goroutines.
type Runner struct {
	rdb      Redis
	queue    chan *Call
	patience *time.Timer // of work

	mu     sync.RWMutex // held to send to queue: nothing is sent to it after closed
	closed bool
	ended  chan struct{}
}

// New starts a runner; Close ends it. The caller closes rdb.
func New(rdb Redis) *Runner {
	r := &Runner{rdb: rdb, queue: make(chan *Call, queueSize), patience: time.NewTimer(0), ended: make(chan struct{})}
	go r.work()
	return r
}

// Close lets what is queued be run and waits for it.
func (r *Runner) Close() {
	r.mu.Lock()
	if !r.closed {
		r.closed = true
		close(r.queue)
	}
	r.mu.Unlock()
	<-r.ended
}

// Go queues a call and returns at once.
func (r *Runner) Go(c *Call) {
	c.queued = time.Now()
	c.until = c.queued.Add(Patience)
	if c.ctx != nil {
		if deadline, ok := c.ctx.Deadline(); ok && deadline.Before(c.until) {
			c.until = deadline
		}
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if !r.closed {
		select {
		case r.queue <- c:
			return
		default:
		}
	}
	c.refuse()
}

func (c *Call) refuse() { fail([]*Call{c}, ErrBusy) }

// Run is Wait for a call of a script with these keys and arguments.
func (r *Runner) Run(ctx context.Context, script *Script, keys []string, args ...any) *redis.Cmd {
	return r.Wait(ctx, &Call{Script: script, Keys: keys, Args: args})
}

// Wait is Go for a caller that waits; c.Done is not called. The script may be run though
// ctx ended first, but not if that was before it was sent.
func (r *Runner) Wait(ctx context.Context, c *Call) *redis.Cmd {
	if err := ctx.Err(); err != nil {
		return answerOf(ctx, err)
	}
	done := make(chan *redis.Cmd, 1)
	c.ctx, c.Done = ctx, func(cmd *redis.Cmd) { done <- cmd }
	r.Go(c)
	select {
	case cmd := <-done:
		return cmd
	case <-ctx.Done():
		return answerOf(ctx, ctx.Err())
	}
}

func answerOf(ctx context.Context, err error) *redis.Cmd {
	cmd := redis.NewCmd(ctx)
	cmd.SetErr(err)
	return cmd
}

func (r *Runner) work() {
	defer close(r.ended)
	batch := make([]*Call, 0, batchSize)
	for c := range r.queue {
		batch = r.collect(append(batch[:0], c))
		sent := time.Now()
		r.flush(batch)
		if len(batch) < batchSize {
			time.Sleep(min(2*time.Since(sent), maxRest))
		}
		clear(batch)
	}
}

// collect adds what waits already, and what comes for as long as all of them may wait.
func (r *Runner) collect(batch []*Call) []*Call {
	by := batch[0].By
	for len(batch) < batchSize {
		c := r.next(by)
		if c == nil {
			break
		}
		batch = append(batch, c)
		if c.By.Before(by) {
			by = c.By
		}
	}
	return batch
}

// next is the next call of those that wait, or come by then; nil for none.
func (r *Runner) next(by time.Time) *Call {
	select {
	case c := <-r.queue: // nil: closed
		return c
	default:
	}
	patience := time.Until(by)
	if patience <= 0 {
		return nil
	}
	r.patience.Reset(patience)
	select {
	case c := <-r.queue:
		return c
	case <-r.patience.C:
		return nil
	}
}

// flush runs a batch in one round trip. Calls whose callers gave up are refused: Redis was
// silent, or this process stood still.
func (r *Runner) flush(batch []*Call) {
	now := time.Now()
	batch = slices.DeleteFunc(batch, func(c *Call) bool {
		late := now.After(c.until) || c.ctx != nil && c.ctx.Err() != nil
		if late {
			c.refuse()
		}
		return late
	})
	if len(batch) == 0 {
		return
	}
	until := now.Add(Patience)
	if most := batch[0].queued.Add(MostWait); most.Before(until) {
		until = most // the first of them has waited longest
	}
	ctx, cancel := context.WithDeadline(context.Background(), until)
	defer cancel()
	carryOut(ctx, r.rdb, batch)
}
