package roomlog

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

const (
	watchEvery   = time.Second
	watchTimeout = 3 * time.Second
)

// Watch looks until ctx ends whether Redis still has what Agree found. Where Redis has lost
// its data it is recorded anew, before a process of another layout can; where it says
// something else, Watch answers with that: the process must end. It also tells the log when
// Redis takes no writes, and why, which calls that fail do not: there are too many of them.
func Watch(ctx context.Context, rdb Redis, layout Layout) error {
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

// look compares what ClusterKey records, and writes what changes nothing.
func look(ctx context.Context, rdb Redis, layout Layout) error {
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	if err := agree(ctx, rdb, layout); err != nil {
		return err
	}
	return record(ctx, rdb, layout)
}
