package roomlog

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/redisdb"
)

const (
	watchEvery   = time.Second
	watchTimeout = 3 * time.Second
)

// Watch checks every second, until ctx ends, that Redis still holds what Agree found. If
// Redis has lost its data, Watch records the layout again before a process with another
// layout can. If Redis holds something else, Watch returns an error, and the process must
// end. Watch also logs when Redis refuses writes, and why. The calls that fail do not log
// this, because there are too many of them.
func Watch(ctx context.Context, rdb redisdb.Redis, layout Layout) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := look(ctx, rdb, layout)
		if errors.As(err, new(disagreement)) {
			return err
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !failing:
			slog.Error("Redis refuses writes, or does not answer", "err", err)
		case err == nil && failing:
			slog.Info("Redis takes writes again")
		}
		failing = err != nil
	}
}

// look compares what ClusterKey records with this process's layout, and makes a write that
// changes nothing to see whether Redis takes writes.
func look(ctx context.Context, rdb redisdb.Redis, layout Layout) error {
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	if err := agree(ctx, rdb, layout); err != nil {
		return err
	}
	return record(ctx, rdb, layout)
}
