package room

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// ReapEvery is how often the reaper asks which rooms need a visit. With the lease of 15 s,
// this keeps the promise that the seats of a dead process are free after 17 s, even if one
// round is missed.
const ReapEvery = 500 * time.Millisecond

// Reap frees what has lapsed in rooms that nobody asks for, until ctx ends. Every room
// service runs it. It does no harm if several of them visit the same room.
func Reap(ctx context.Context, leases Leases) {
	tick := time.NewTicker(ReapEvery)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := reapOnce(ctx, leases)
		if ctx.Err() != nil {
			return
		}
		// An outage is logged once, not twice a second.
		if err != nil && !failing {
			slog.Error("reaper cannot visit all rooms that want it", "err", err)
		}
		failing = err != nil
	}
}

// reapOnce visits rooms until none needs a visit any more: a gateway that died may have had
// members in more rooms than one query finds. It gives up after a round that failed and freed
// nothing, and returns the error.
func reapOnce(ctx context.Context, leases Leases) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		visits, more, dueErr := leases.Due(ctx)
		freed, expireErr := leases.Expire(ctx, visits)
		if freed > 0 {
			slog.Debug("freed seats that lapsed", "rooms", len(visits), "seats", freed)
		}
		if err := errors.Join(dueErr, expireErr); !more || err != nil && freed == 0 {
			return err
		}
	}
}
