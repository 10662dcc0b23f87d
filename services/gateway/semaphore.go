package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// semaphore limits how many things go on at a time to its capacity.
type semaphore chan struct{}

// acquire waits until one more may go on, but not longer than patience. release ends that one;
// only its first call counts. The error is UNAVAILABLE if it took too long or ctx ended.
func (s semaphore) acquire(ctx context.Context, patience time.Duration) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case s <- struct{}{}:
		return sync.OnceFunc(func() { <-s }), nil
	case <-ctx.Done():
		return nil, wire.Errorf(wire.Unavailable, "this gateway is too busy at this moment")
	}
}
