package redisstore

import (
	"context"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/pipeline"
)

// pipelined runs a script n times in one round trip. Calls that Redis refused since it
// does not know the script (it forgets them when it restarts) did nothing: the script
// is loaded and they are sent again. Each command carries its own error; the one
// answered is that of loading.
func pipelined(ctx context.Context, rdb pipeline.Redis, sc *redis.Script, n int, call func(i int) ([]string, []any)) ([]*redis.Cmd, error) {
	if n == 0 {
		return nil, nil
	}
	cmds := make([]*redis.Cmd, n)
	send := func(which []int) {
		pipe := rdb.Pipeline()
		for _, i := range which {
			keys, args := call(i)
			cmds[i] = sc.EvalSha(ctx, pipe, keys, args...)
		}
		pipeline.Exec(ctx, pipe)
	}
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	send(all)
	var unknown []int
	for i, cmd := range cmds {
		if redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
			unknown = append(unknown, i)
		}
	}
	if len(unknown) == 0 {
		return cmds, nil
	}
	if err := sc.Load(ctx, rdb).Err(); err != nil {
		return nil, err
	}
	send(unknown)
	return cmds, nil
}
