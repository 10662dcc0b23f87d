package pipeline_test

import (
	"errors"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/pipeline"
	"github.com/anteroom-chat/anteroom/pkg/redistest"
)

func TestCommandsCarryTheErrorOfAConnectionThatRedisRefused(t *testing.T) {
	t.Parallel()
	m := redistest.Embedded(t)
	rdb := redistest.Client(t, "redis://"+m.Addr())
	const refusal = "ERR max number of clients reached"
	m.SetError(refusal)
	pipe := rdb.Pipeline()
	got, exists := pipe.HGet(t.Context(), "room", "epoch"), pipe.Exists(t.Context(), "room")
	pipeline.Exec(t.Context(), pipe)
	for _, cmd := range []redis.Cmder{got, exists} {
		if err := cmd.Err(); err == nil || err.Error() != refusal {
			t.Errorf("%v: error %v", cmd.Args(), err)
		}
	}
}

func TestCommandsCarryTheirOwnErrors(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t, "redis://"+redistest.Embedded(t).Addr())
	pipe := rdb.Pipeline()
	set, none, wrong := pipe.Set(t.Context(), "a", 1, 0), pipe.Get(t.Context(), "b"), pipe.HGet(t.Context(), "a", "f")
	pipeline.Exec(t.Context(), pipe)
	if set.Err() != nil || !errors.Is(none.Err(), redis.Nil) || !redis.HasErrorPrefix(wrong.Err(), "WRONGTYPE") {
		t.Errorf("errors %v, %v, %v", set.Err(), none.Err(), wrong.Err())
	}
}
