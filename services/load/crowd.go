package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
)

const (
	prepareTimeout = 30 * time.Second // for all identities
	prepareAtOnce  = 16
	prepareRetry   = 250 * time.Millisecond
	callTimeout    = 10 * time.Second // of an HTTP call or a join
)

// crowd is all users of the targets.
type crowd struct {
	clients []*client.Client // one for each target; they share connections
	users   []client.Identity
}

func newCrowd(targets []string, options []client.Option) (*crowd, error) {
	var c crowd
	for i, target := range targets {
		var next *client.Client
		var err error
		if i == 0 {
			next, err = client.New(target, options...)
		} else {
			next, err = c.clients[0].At(target)
		}
		if err != nil {
			return nil, err
		}
		c.clients = append(c.clients, next)
	}
	return &c, nil
}

func (c *crowd) close() { c.clients[0].CloseIdleConnections() }

// prepare gets an identity for each user. It fails if the targets do not provide all of
// them in time.
func (c *crowd) prepare(ctx context.Context, users int) error {
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	c.users = make([]client.Identity, users)
	var failed error
	var once sync.Once
	atMost(prepareAtOnce, users, func(i int) {
		if ctx.Err() != nil {
			return
		}
		id, err := c.identity(ctx, i)
		if err != nil {
			once.Do(func() { failed = err; cancel() })
		}
		c.users[i] = id
	})
	return failed
}

// identity gets the identity of one user. It waits out temporary refusals. If the targets
// cannot be reached at all, it gives up after two tries at each of them and one more.
func (c *crowd) identity(ctx context.Context, i int) (client.Identity, error) {
	for try := 0; ; try++ {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		id, err := c.clients[(i+try)%len(c.clients)].Identity(call, fmt.Sprint("load ", i))
		cancel()
		if err == nil {
			return id, nil
		}
		refusal, refused := errors.AsType[*client.StatusError](err)
		if ctx.Err() != nil || !refused && try >= 2*len(c.clients) || refused && refusal.Status < 429 {
			return id, err
		}
		wait := prepareRetry
		if refused {
			wait = max(wait, refusal.RetryAfter)
		}
		sleep(ctx, wait)
	}
}

// atMost calls do for 0 to n-1, at most limit at a time, and waits for all of them.
func atMost(limit, n int, do func(i int)) {
	var wait sync.WaitGroup
	defer wait.Wait()
	turns := make(chan struct{}, limit)
	for i := range n {
		turns <- struct{}{}
		wait.Go(func() {
			defer func() { <-turns }()
			do(i)
		})
	}
}

// sleep waits for d, and reports whether that time passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
