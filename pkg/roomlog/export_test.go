package roomlog

import (
	"context"
	"time"
)

// What the tests outside the package look at: they need package redistest, which
// imports this one.
const ProbePatience = probePatience

// DelayAfter is delayAfter.
func DelayAfter(last, lived time.Duration) time.Duration { return delayAfter(last, lived) }

// Probed is what a probe does that comes back.
func (s *Subscriber) Probed(payload string) error { return s.probed(payload) }

// Subscribe is Follow, and waits.
func (s *Subscriber) Subscribe(ctx context.Context, roomID string) error {
	select {
	case <-s.Follow(roomID):
		return nil
	case <-ctx.Done():
		return Fault("subscribe", ctx.Err())
	}
}
