package run

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// AwaitLimit is how long a starting process waits for what it depends on. A Redis that is
// loading its append-only file refuses commands for seconds.
const AwaitLimit = 15 * time.Second

const awaitEvery = 250 * time.Millisecond

// Await calls try again while it fails with UNAVAILABLE, for at most AwaitLimit. It returns
// any other error at once.
func Await(ctx context.Context, what string, try func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, AwaitLimit)
	defer cancel()
	for told := false; ; told = true {
		err := try(ctx)
		if err == nil || !errors.Is(err, &wire.Error{Code: wire.Unavailable}) {
			return err
		}
		if !told {
			slog.Warn("waiting for "+what, "at_most", AwaitLimit.String(), "err", err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(awaitEvery):
		}
	}
}
