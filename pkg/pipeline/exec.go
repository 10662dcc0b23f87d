package pipeline

import (
	"context"
	"slices"

	"github.com/redis/go-redis/v9"
)

// Exec sends what pipe holds, in one round trip. Afterwards each command carries its own
// error: go-redis leaves them without one, and with empty answers, where it needed a new
// connection and Redis refused that (it loads, or has too many clients).
func Exec(ctx context.Context, pipe redis.Pipeliner) {
	cmds, err := pipe.Exec(ctx)
	failed := func(cmd redis.Cmder) bool { return cmd.Err() != nil }
	if err == nil || slices.ContainsFunc(cmds, failed) {
		return
	}
	for _, cmd := range cmds {
		cmd.SetErr(err)
	}
}
