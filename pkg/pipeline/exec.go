package pipeline

import (
	"cmp"
	"context"
	"slices"

	"github.com/redis/go-redis/v9"
)

// Exec sends the commands of pipe in one round trip. Afterwards each command carries its own
// error. go-redis alone leaves the commands without an error, and with empty results, if it
// needed a new connection and Redis refused that (because it is loading or has too many
// clients).
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

// RunAll runs n calls of a script in one round trip. Each reply carries its own error.
func RunAll(ctx context.Context, rdb Redis, script *Script, n int, call func(i int) (keys []string, args []any)) []*redis.Cmd {
	if n == 0 {
		return nil
	}
	answers := make([]*redis.Cmd, n)
	calls := make([]*Call, n)
	for i := range calls {
		keys, args := call(i)
		calls[i] = &Call{Script: script, Keys: keys, Args: args, Done: func(cmd *redis.Cmd) { answers[i] = cmd }}
	}
	carryOut(ctx, rdb, calls)
	return answers
}

// carryOut runs calls in one round trip. Calls whose script Redis did not know did nothing
// (Redis forgets scripts when it restarts). They are run in another round trip.
func carryOut(ctx context.Context, rdb Redis, calls []*Call) {
	if unknown := attempt(ctx, rdb, calls, false); len(unknown) > 0 {
		attempt(ctx, rdb, unknown, true)
	}
}

// attempt runs calls and returns those whose script Redis does not know. If load is set, the
// pipeline also loads the scripts. Loading them outside the pipeline would use another
// connection, which may lead to another Redis.
func attempt(ctx context.Context, rdb Redis, calls []*Call, load bool) (unknown []*Call) {
	runs := group(calls)
	pipe := rdb.Pipeline()
	loads := make([]*redis.StringCmd, len(runs))
	cmds := make([]*redis.Cmd, len(runs))
	for i, r := range runs {
		if load {
			loads[i] = pipe.ScriptLoad(ctx, r[0].Script.src)
		}
		cmds[i] = r.send(ctx, pipe)
	}
	Exec(ctx, pipe)
	if slices.ContainsFunc(cmds, fromReplica) {
		leaveReplica(ctx, rdb)
	}
	for i, r := range runs {
		switch {
		case !redis.HasErrorPrefix(cmds[i].Err(), "NOSCRIPT"):
			r.tell(ctx, cmds[i])
		case load: // loading failed, or Redis forgot the script again within a millisecond
			fail(r, cmp.Or[error](loads[i].Err(), ErrBusy))
		default:
			unknown = append(unknown, r...)
		}
	}
	return unknown
}

func fromReplica(cmd *redis.Cmd) bool { return redis.HasErrorPrefix(cmd.Err(), "READONLY") }

// leaveReplica makes go-redis give up the connection that was used last, which leads to a
// replica. go-redis does so only if the first command of a pipeline is refused with READONLY.
// If the connection leads to another Redis by now, the command deletes a key that does not
// exist.
func leaveReplica(ctx context.Context, rdb Redis) {
	pipe := rdb.Pipeline()
	pipe.Del(ctx, "ar:")
	_, _ = pipe.Exec(ctx)
}

func fail(calls []*Call, err error) {
	for _, c := range calls {
		c.Done(answerOf(context.Background(), err))
	}
}
