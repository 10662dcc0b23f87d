package room

import (
	"cmp"
	"context"
	"log/slog"
	"time"
)

// ReapEvery is how often due rooms are looked for: with the lease of 15 s it keeps the
// promise that a dead process' seats are free after 17 s, one missed round included.
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
			slog.Error("reaper cannot look for due rooms", "err", err)
		}
		failing = err != nil
	}
}

// reapOnce visits all rooms that are due, also where a gateway that died had many.
func reapOnce(ctx context.Context, leases Leases) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		rooms, more, unasked := leases.Due(ctx)
		freed, err := leases.Expire(ctx, rooms)
		if freed > 0 {
			slog.Debug("freed seats that lapsed", "rooms", len(rooms), "seats", freed)
		}
		if err := cmp.Or(unasked, err); err != nil || !more {
			return err
		}
	}
}
