package run

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

func TestAStartWaitsForWhatIsUnavailableOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := wire.Errorf(wire.Unavailable, "loading")
		wrong := errors.New("partitions disagree")
		start := time.Now()
		if err := Await(t.Context(), "Redis", func(context.Context) error {
			if time.Since(start) < 5*time.Second {
				return down
			}
			return nil
		}); err != nil || time.Since(start) > 6*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		start = time.Now()
		if err := Await(t.Context(), "Redis", func(context.Context) error { return wrong }); !errors.Is(err, wrong) || time.Since(start) > 0 {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		if err := Await(t.Context(), "Redis", func(context.Context) error { return down }); !errors.Is(err, down) || time.Since(start) != AwaitLimit {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}
