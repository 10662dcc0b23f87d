// Package pipeline runs Redis scripts for many callers in few round trips.
//
// A lone call is sent at once. Calls that come while its reply is on the way, and for up to a
// millisecond afterwards (see maxRest), are collected and then sent together. With 64
// callers, a script then costs both ends a quarter of the CPU that it costs with a connection
// for each caller, since most of that is the kernel's work for each packet. Calls of the same
// script share a run of it.
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
	batchSize = 256  // calls in one round trip, at most
	queueSize = 8192 // calls that wait, at most
	// maxRest is how long the worker rests after a round trip at most. Otherwise it rests for
	// twice the duration of the round trip. At 2,000 calls/s that saves a quarter of all CPU and
	// delays a call by half a rest. A call that comes after the rest does not wait.
	maxRest = time.Millisecond
	// Patience is how long a call waits in its queue at most, and how long a round trip takes
	// at most.
	Patience = 3 * time.Second
	// MostWait is how long both take together at most: a call that waited for a round trip to
	// a silent Redis does not wait for another one in full.
	MostWait = Patience * 3 / 2
)

// ErrBusy is the error of a call that was not sent to Redis: too many calls are waiting
// already, it waited for longer than Patience or until its caller gave up, or the Runner is
// closed.
var ErrBusy = wire.Errorf(wire.Unavailable, "too many calls are waiting for the store")

// Redis runs scripts, alone and in batches. It is a *redis.Client.
type Redis interface {
	redis.Scripter
	Pipeline() redis.Pipeliner
}

// Call is one call of a script.
type Call struct {
	Script *Script
	Keys   []string
	Args   []any

	// MayWaitUntil is the time until which the call may wait in the queue for others that share
	// its round trip. It waits only as long as all calls in the batch may wait. Zero means that
	// it does not wait.
	MayWaitUntil time.Time

	// Done is called once with the reply or its error, which is ErrBusy or an error of
	// go-redis. It is called from a worker, or by Go itself if the call is refused at once.
	// It must not block.
	Done func(*redis.Cmd)

	ctx    context.Context // of a caller that waits; the call is not sent once ctx has ended
	queued time.Time
	until  time.Time // the call is refused if it was not sent by then
}

// Runner runs the calls of each script in the order in which they were given. Its methods may
// be called from many goroutines.
type Runner struct {
	rdb      Redis
	queue    chan *Call
	patience *time.Timer // of work

	mu     sync.RWMutex // read-locked to send to queue, which is closed when closed is set
	closed bool
	ended  chan struct{}
}

// New starts a runner, which Close ends. The caller must close rdb.
func New(rdb Redis) *Runner {
	r := &Runner{rdb: rdb, queue: make(chan *Call, queueSize), patience: time.NewTimer(0), ended: make(chan struct{})}
	go r.work()
	return r
}

// Close waits until the queued calls have been run. Later calls are refused.
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

// Run is like Wait for a call of script with these keys and arguments.
func (r *Runner) Run(ctx context.Context, script *Script, keys []string, args ...any) *redis.Cmd {
	return r.Wait(ctx, &Call{Script: script, Keys: keys, Args: args})
}

// Wait is like Go but waits for the reply and returns it; it sets c.Done itself. If ctx ends
// first, the script may still be run, unless ctx ended before the call was sent.
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

// collect adds to the batch the calls that are waiting already, and those that come for as
// long as all calls of the batch may wait.
func (r *Runner) collect(batch []*Call) []*Call {
	by := batch[0].MayWaitUntil
	for len(batch) < batchSize {
		c := r.next(by)
		if c == nil {
			break
		}
		batch = append(batch, c)
		if c.MayWaitUntil.Before(by) {
			by = c.MayWaitUntil
		}
	}
	return batch
}

// next returns the next call that is queued, or that comes before by, or nil if there is
// none.
func (r *Runner) next(by time.Time) *Call {
	select {
	case c := <-r.queue: // nil if closed
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

// flush runs a batch in one round trip. It refuses calls that have waited too long or whose
// callers have given up, because Redis was silent or this process stood still.
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
		until = most // the first one has waited longest
	}
	ctx, cancel := context.WithDeadline(context.Background(), until)
	defer cancel()
	carryOut(ctx, r.rdb, batch)
}
