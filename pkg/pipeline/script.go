package pipeline

import (
	"context"
	_ "embed"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"
)

// runSize is how many keys and arguments the calls of one run have together, at most. Redis
// serves no other client during a run.
const runSize = 400

//go:embed lua/each.lua
var eachLua string

// Script is an operation in Lua. One run of it serves several calls, which costs Redis up to
// a third less than a run for each call: the command, the clock and the functions that a
// script defines first are needed only once. The keys of the calls may be in several
// partitions, which a Redis Cluster would not allow.
type Script struct {
	src string
	lua *redis.Script
}

// NewScript makes a script. operation is the body of a function of KEYS and ARGV, which are
// those of one call; it must not return nil. prelude precedes it and is executed once in a
// run.
func NewScript(prelude, operation string) *Script {
	src := prelude + "\nlocal function operation(KEYS, ARGV)\n" + operation + "\nend\n" + eachLua
	return &Script{src, redis.NewScript(src)}
}

// Load loads the script into Redis.
func (s *Script) Load(ctx context.Context, rdb redis.Scripter) error {
	return s.lua.Load(ctx, rdb).Err()
}

// run is a list of calls that share one run of their script.
type run []*Call

// group distributes calls over runs. Calls of the same script keep their order: a call joins
// the last run of its script, or begins the next one.
func group(calls []*Call) []run {
	var runs []run
	for _, c := range calls {
		if i := lastOf(runs, c.Script); i >= 0 && runs[i].takes(c) {
			runs[i] = append(runs[i], c)
		} else {
			runs = append(runs, run{c})
		}
	}
	return runs
}

// lastOf returns the index of the last run of a script, or -1 if there is none.
func lastOf(runs []run, script *Script) int {
	for i, r := range slices.Backward(runs) {
		if r[0].Script == script {
			return i
		}
	}
	return -1
}

// takes reports whether a call of the same script fits into the run.
func (r run) takes(c *Call) bool {
	keys, args := len(r[0].Keys), len(r[0].Args)
	return len(c.Keys) == keys && len(c.Args) == args && (len(r)+1)*(keys+args) <= runSize
}

func (r run) send(ctx context.Context, pipe redis.Pipeliner) *redis.Cmd {
	var keys []string
	args := []any{len(r)}
	for _, c := range r {
		keys, args = append(keys, c.Keys...), append(args, c.Args...)
	}
	return r[0].Script.lua.EvalSha(ctx, pipe, keys, args...)
}

// tell gives each call its own part of the reply.
func (r run) tell(ctx context.Context, all *redis.Cmd) {
	answers, err := all.Slice()
	if err == nil && len(answers) != len(r) {
		err = fault(fmt.Sprintf("ERR %d answers to %d calls", len(answers), len(r)))
	}
	for i, c := range r {
		cmd := redis.NewCmd(ctx)
		if err != nil {
			cmd.SetErr(err)
		} else if answer, ok := answers[i].([]any); ok && len(answer) == 1 {
			cmd.SetVal(answer[0])
		} else {
			cmd.SetErr(fault(fmt.Sprint(answers[i])))
		}
		c.Done(cmd)
	}
}

// fault is Redis' error for one call of a run.
type fault string

func (f fault) Error() string { return string(f) }

// RedisError makes fault a redis.Error.
func (fault) RedisError() {}
