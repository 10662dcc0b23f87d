package pipeline_test

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/pipeline"
	"github.com/anteroom-chat/anteroom/pkg/redisdb"
	"github.com/anteroom-chat/anteroom/pkg/redistest"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// push appends ARGV[1] to a list and returns its length.
var push = pipeline.NewScript("local call = redis.call", `return call('RPUSH', KEYS[1], ARGV[1])`)

func start(t *testing.T, rdb *redis.Client) *pipeline.Runner {
	t.Helper()
	r := pipeline.New(rdb)
	t.Cleanup(r.Close)
	return r
}

func each(t *testing.T, test func(t *testing.T, rdb *redis.Client, r *pipeline.Runner)) {
	t.Helper()
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		t.Parallel()
		test(t, rdb, start(t, rdb))
	})
}

func call(arg string, done func(*redis.Cmd)) *pipeline.Call {
	return &pipeline.Call{Script: push, Keys: []string{"list"}, Args: []any{arg}, Done: done}
}

func TestCallsAreRunInTheirOrder(t *testing.T) {
	each(t, func(t *testing.T, rdb *redis.Client, r *pipeline.Runner) {
		const calls = 2 * pipeline.BatchSize
		var done sync.WaitGroup
		for n := range calls {
			done.Add(1)
			r.Go(call(strconv.Itoa(n), func(cmd *redis.Cmd) {
				defer done.Done()
				if length, err := cmd.Int(); err != nil || length != n+1 {
					t.Errorf("call %d: %d, %v", n, length, err)
				}
			}))
		}
		done.Wait()
		for n, arg := range rdb.LRange(t.Context(), "list", 0, -1).Val() {
			if arg != strconv.Itoa(n) {
				t.Fatalf("at place %d: call %s", n, arg)
			}
		}
	})
}

func TestCloseRunsWhatIsQueuedAndRefusesWhatComesLater(t *testing.T) {
	each(t, func(t *testing.T, rdb *redis.Client, _ *pipeline.Runner) {
		r := pipeline.New(rdb)
		var ran atomic.Int64
		for range 100 {
			r.Go(call("x", func(cmd *redis.Cmd) {
				if cmd.Err() == nil {
					ran.Add(1)
				}
			}))
		}
		r.Close()
		r.Close()
		if ran.Load() != 100 || rdb.LLen(t.Context(), "list").Val() != 100 {
			t.Fatal(ran.Load(), rdb.LLen(t.Context(), "list").Val())
		}
		if err := r.Run(t.Context(), push, []string{"list"}, "x").Err(); !errors.Is(err, pipeline.ErrBusy) {
			t.Fatal(err)
		}
	})
}

func TestCallsThatWaitedForASilentRedisAreNotRunLate(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	rdb := redistest.Client(t, server.URL())
	r := start(t, rdb)
	server.Pause()
	const sent = 3 * pipeline.BatchSize
	failed := make(chan error, sent)
	began := time.Now()
	for range sent {
		r.Go(call("x", func(cmd *redis.Cmd) { failed <- cmd.Err() }))
	}
	for range sent {
		if err := <-failed; err == nil {
			t.Fatal("a call succeeded on a Redis that stands still")
		}
	}
	if took := time.Since(began); took > pipeline.MostWait+time.Second {
		t.Errorf("the callers waited %v", took)
	}
	server.Resume()
	if err := r.Run(t.Context(), push, []string{"list"}, "x").Err(); err != nil {
		t.Fatal(err)
	}
	if n := rdb.LLen(t.Context(), "list").Val(); n > 1+2*pipeline.BatchSize {
		t.Errorf("%d were run: some long after their callers gave up", n)
	}
}

// A call that arrived while another one was waiting for a silent Redis does not wait for two
// full round trips.
func TestEveryCallIsAnsweredInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redis.NewClient(redisdb.Tune(&redis.Options{Dialer: silence}))
		defer rdb.Close()
		r := pipeline.New(rdb)
		defer r.Close()
		var calls sync.WaitGroup
		for range 40 {
			calls.Add(1)
			asked := time.Now()
			r.Go(call("x", func(cmd *redis.Cmd) {
				defer calls.Done()
				if took := time.Since(asked); cmd.Err() == nil || took > pipeline.MostWait {
					t.Errorf("answered after %v: %v", took, cmd.Err())
				}
			}))
			time.Sleep(100 * time.Millisecond)
		}
		calls.Wait()
	})
}

// silence connects to a server that accepts, reads and never answers.
func silence(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, server) }()
	return client, nil
}

func TestACallWhoseCallerGivesUpInTheQueueIsNotSent(t *testing.T) {
	t.Parallel()
	for name, givesUp := range map[string]func(context.Context) (context.Context, context.CancelFunc){
		"deadline": func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 50*time.Millisecond)
		},
		"cancelled": func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(50*time.Millisecond, cancel)
			return ctx, cancel
		},
	} {
		t.Run(name, func(t *testing.T) { testGivesUp(t, givesUp) })
	}
}

func testGivesUp(t *testing.T, givesUp func(context.Context) (context.Context, context.CancelFunc)) {
	t.Parallel()
	server := redistest.Server(t)
	rdb := redistest.Client(t, server.URL())
	r := start(t, rdb)
	server.Pause()
	under := make(chan struct{})
	r.Go(call("first", func(*redis.Cmd) { close(under) })) // keeps the worker busy
	ctx, cancel := givesUp(t.Context())
	defer cancel()
	for range 10 {
		if err := r.Run(ctx, push, []string{"list"}, "late").Err(); err == nil || !errors.Is(err, ctx.Err()) {
			t.Fatal(err)
		}
	}
	server.Resume()
	<-under
	if err := r.Run(t.Context(), push, []string{"list"}, "last").Err(); err != nil {
		t.Fatal(err)
	}
	// The first of them may already have been sent.
	late := func(arg string) bool { return arg == "late" }
	list := slices.DeleteFunc(rdb.LRange(t.Context(), "list", 0, -1).Val(), late)
	if got := rdb.LLen(t.Context(), "list").Val() - int64(len(list)); got > 1 {
		t.Errorf("%d calls were run after their callers had given up", got)
	}
}

func TestAFullQueueRefusesInsteadOfBlocking(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	r := start(t, redistest.Client(t, server.URL()))
	server.Pause()
	defer server.Resume()
	var refused atomic.Int64
	for range pipeline.QueueSize + 2*pipeline.BatchSize {
		r.Go(call("x", func(cmd *redis.Cmd) {
			if wire.CodeOf(cmd.Err()) == wire.Unavailable {
				refused.Add(1)
			}
		}))
	}
	if refused.Load() == 0 {
		t.Error("nothing was refused")
	}
}

// recorder answers pipelines at once and records the calls in each.
type recorder struct {
	began   time.Time
	batches []string
}

// record starts a runner, in virtual time. The caller closes it.
func record(t *testing.T) (*recorder, *pipeline.Runner) {
	rdb := redis.NewClient(redisdb.Tune(&redis.Options{Dialer: silence}))
	t.Cleanup(func() { _ = rdb.Close() })
	rec := &recorder{began: time.Now()}
	rdb.AddHook(rec)
	return rec, pipeline.New(rdb)
}

func (r *recorder) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(_ context.Context, cmds []redis.Cmder) error {
		batch := time.Since(r.began).String() + ":"
		for i, cmd := range cmds {
			if i > 0 {
				batch += " |"
			}
			args := cmd.Args() // EVALSHA, the script, number of keys, keys, number of calls, arguments
			for _, arg := range args[3+args[2].(int)+1:] {
				batch += " " + arg.(string)
			}
		}
		r.batches = append(r.batches, batch)
		return nil
	}
}

func (r *recorder) DialHook(next redis.DialHook) redis.DialHook { return next }

func (r *recorder) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func TestCallsWaitForOthersAsLongAsAllOfThemMay(t *testing.T) {
	const ms = time.Millisecond
	type arrival struct{ at, patience time.Duration }
	for name, test := range map[string]struct {
		arrivals []arrival
		want     []string
	}{
		"alone":                    {[]arrival{{0, 4 * ms}}, []string{"4ms: 0"}},
		"behind another":           {[]arrival{{0, 4 * ms}, {3 * ms, 4 * ms}}, []string{"4ms: 0 1"}},
		"the second has less":      {[]arrival{{0, 9 * ms}, {ms, 2 * ms}}, []string{"3ms: 0 1"}},
		"one that does not wait":   {[]arrival{{0, 4 * ms}, {ms, 4 * ms}, {2 * ms, 0}}, []string{"2ms: 0 1 2"}},
		"behind one that does not": {[]arrival{{0, 0}, {ms, 4 * ms}}, []string{"0s: 0", "5ms: 1"}},
		"too late":                 {[]arrival{{0, -ms}}, []string{"0s: 0"}},
		"closed meanwhile":         {[]arrival{{99 * ms, time.Hour}}, []string{"100ms: 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rec, r := record(t)
				for i, a := range test.arrivals {
					time.Sleep(time.Until(rec.began.Add(a.at)))
					c := call(strconv.Itoa(i), func(*redis.Cmd) {})
					if a.patience != 0 {
						c.MayWaitUntil = time.Now().Add(a.patience)
					}
					r.Go(c)
				}
				time.Sleep(time.Until(rec.began.Add(100 * ms)))
				r.Close()
				if !slices.Equal(rec.batches, test.want) {
					t.Errorf("got %q, want %q", rec.batches, test.want)
				}
			})
		})
	}
}

func TestAFullBatchDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec, r := record(t)
		defer r.Close()
		for range pipeline.BatchSize {
			c := call("x", func(*redis.Cmd) {})
			c.MayWaitUntil = time.Now().Add(time.Hour)
			r.Go(c)
		}
		synctest.Wait()
		if len(rec.batches) != 1 {
			t.Errorf("%d round trips", len(rec.batches))
		}
	})
}
