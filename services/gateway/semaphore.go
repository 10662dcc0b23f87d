package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
)

// semaphore limits how many things go on at a time: as many as it has room for.
type semaphore chan struct{}

// acquire waits for so long at most until one more may go on, and answers with how to
// release that: once, however often it is called. UNAVAILABLE where it took too long.
func (s semaphore) acquire(ctx context.Context, patience time.Duration) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case s <- struct{}{}:
		return sync.OnceFunc(func() { <-s }), nil
	case <-ctx.Done():
		return nil, roomlog.Fault("wait until fewer go on at a time", ctx.Err())
	}
}
