package roomlog

import (
	"context"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/redisdb"
)

// The tests are outside the package because they need package redistest, which imports this
// one. This file exports what they need.
const ProbePatience = probePatience

// DelayAfter is delayAfter.
func DelayAfter(last, lived time.Duration) time.Duration { return delayAfter(last, lived) }

// Probed handles a probe that came back.
func (s *Subscriber) Probed(payload string) error { return s.probed(payload) }

// Subscribe is Follow, but waits for the confirmation.
func (s *Subscriber) Subscribe(ctx context.Context, roomID string) error {
	select {
	case <-s.Follow(roomID):
		return nil
	case <-ctx.Done():
		return redisdb.Fault("subscribe", ctx.Err())
	}
}
