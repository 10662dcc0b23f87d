package room

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// ReapEvery is how often the reaper asks which rooms want a visit: with the lease of 15 s it
// keeps the promise that a dead process' seats are free after 17 s, one missed round included.
const ReapEvery = 500 * time.Millisecond

// Reap frees what lapsed in rooms that nobody asks for, until ctx ends. Every room
// service runs it; that several visit the same room is harmless.
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
		// An outage is told once, not twice a second.
		if err != nil && !failing {
			slog.Error("reaper cannot visit all rooms that want it", "err", err)
		}
		failing = err != nil
	}
}

// reapOnce visits rooms until none wants it any more: a gateway that died may have had more of
// them than one question finds. It gives up, with what went wrong, at a round that failed and
// freed nothing.
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
