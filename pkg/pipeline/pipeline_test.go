package pipeline_test

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/anteroom-chat/anteroom/pkg/redistest"
	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// push appends ARGV[1] to a list and answers with its length.
var push = redis.NewScript(`return redis.call('RPUSH', KEYS[1], ARGV[1])`)

// pushEach does so for each of its keys and arguments.
var pushEach = redis.NewScript(`
local answers = {}
for i, key in ipairs(KEYS) do
  local done, answer = pcall(redis.call, 'RPUSH', key, ARGV[i])
  answers[i] = done and answer or redis.error_reply('WRONG it is')
end
return answers`)

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

func TestScriptsThatRedisForgotAreLoadedAgain(t *testing.T) {
	each(t, func(t *testing.T, rdb *redis.Client, r *pipeline.Runner) {
		for n := range 3 {
			if err := rdb.ScriptFlush(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			if length, err := r.Run(t.Context(), push, []string{"list"}, "x").Int(); err != nil || length != n+1 {
				t.Fatal(length, err)
			}
		}
	})
}

func TestAnErrorOfOneCallIsItsOwn(t *testing.T) {
	each(t, func(t *testing.T, _ *redis.Client, r *pipeline.Runner) {
		wrong := redis.NewScript(`return redis.error_reply('WRONG it is')`)
		var done sync.WaitGroup
		for n := range 20 {
			done.Add(1)
			c := call("x", func(cmd *redis.Cmd) {
				defer done.Done()
				if failed := redis.HasErrorPrefix(cmd.Err(), "WRONG"); failed != (n%2 == 1) {
					t.Errorf("call %d: %v", n, cmd.Err())
				}
			})
			if n%2 == 1 {
				c.Script = wrong
			}
			r.Go(c)
		}
		done.Wait()
	})
}

func TestJointCallsShareARunAndEachHasItsOwnAnswer(t *testing.T) {
	each(t, func(t *testing.T, rdb *redis.Client, r *pipeline.Runner) {
		rdb.Set(t.Context(), "no list", "", 0)
		const calls = pipeline.BatchSize + pipeline.JointSize/2
		var done sync.WaitGroup
		length := 0
		for n := range calls {
			done.Add(1)
			c := call(strconv.Itoa(n), nil)
			if n%10 != 0 { // others stand in between
				c.Script, c.Joint = pushEach, true
			}
			if wrong := n%7 == 1 && c.Joint; wrong {
				c.Keys = []string{"no list"}
				c.Done = func(cmd *redis.Cmd) {
					defer done.Done()
					if !redis.HasErrorPrefix(cmd.Err(), "WRONG") {
						t.Errorf("call %d: %v, %v", n, cmd.Val(), cmd.Err())
					}
				}
			} else {
				length++
				want := length
				c.Done = func(cmd *redis.Cmd) {
					defer done.Done()
					if got, err := cmd.Int(); err != nil || got != want {
						t.Errorf("call %d: %d, %v, want %d", n, got, err, want)
					}
				}
			}
			r.Go(c)
		}
		done.Wait()
	})
}

func TestJointCallsWhoseScriptRedisForgotAreRunOnce(t *testing.T) {
	each(t, func(t *testing.T, rdb *redis.Client, r *pipeline.Runner) {
		var done sync.WaitGroup
		for range pipeline.JointSize {
			done.Add(1)
			r.Go(&pipeline.Call{
				Script: pushEach, Joint: true, Keys: []string{"list"}, Args: []any{"x"},
				Done: func(cmd *redis.Cmd) {
					defer done.Done()
					if cmd.Err() != nil {
						t.Error(cmd.Err())
					}
				},
			})
		}
		done.Wait()
		if n := rdb.LLen(t.Context(), "list").Val(); n != pipeline.JointSize {
			t.Errorf("%d were pushed, want %d", n, pipeline.JointSize)
		}
	})
}

func TestAScriptThatDoesNotAnswerEachJointCallAnswersNone(t *testing.T) {
	each(t, func(t *testing.T, _ *redis.Client, r *pipeline.Runner) {
		for _, answer := range []string{"{}", "{1, 2}", "1"} {
			answered := make(chan error)
			r.Go(&pipeline.Call{
				Script: redis.NewScript("return " + answer), Joint: true,
				Done: func(cmd *redis.Cmd) { answered <- cmd.Err() },
			})
			if err := <-answered; err == nil {
				t.Errorf("%s was taken for an answer", answer)
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

// A call that came while another one waited for a silent Redis does not wait for two round
// trips in full.
func TestEveryCallIsAnsweredInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redis.NewClient(roomlog.Tune(&redis.Options{Dialer: silence}))
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

// silence dials a server that accepts, reads and never answers.
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
	// The first of them may have been under way already.
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

// recorder answers pipelines at once, and remembers what came in each.
type recorder struct {
	began   time.Time
	batches []string
}

// record starts a runner, in virtual time. The caller closes it.
func record(t *testing.T) (*recorder, *pipeline.Runner) {
	rdb := redis.NewClient(roomlog.Tune(&redis.Options{Dialer: silence}))
	t.Cleanup(func() { _ = rdb.Close() })
	rec := &recorder{began: time.Now()}
	rdb.AddHook(rec)
	return rec, pipeline.New(rdb)
}

func (r *recorder) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(_ context.Context, cmds []redis.Cmder) error {
		batch := time.Since(r.began).String() + ":"
		for _, cmd := range cmds {
			batch += " " + cmd.Args()[len(cmd.Args())-1].(string)
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
						c.By = time.Now().Add(a.patience)
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

func TestARunOfManyJointCallsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec, r := record(t)
		other := redis.NewScript("return {}")
		for n := range pipeline.JointSize + 5 {
			c := call(strconv.Itoa(n), func(*redis.Cmd) {})
			c.Script, c.Joint, c.By = pushEach, true, time.Now().Add(time.Millisecond)
			if n >= pipeline.JointSize+2 {
				c.Script = other
			}
			r.Go(c)
		}
		time.Sleep(2 * time.Millisecond)
		r.Close()
		// The last of each run.
		want := fmt.Sprintf("1ms: %d %d %d", pipeline.JointSize-1, pipeline.JointSize+1, pipeline.JointSize+4)
		if !slices.Equal(rec.batches, []string{want}) {
			t.Errorf("got %q, want %q", rec.batches, want)
		}
	})
}

func TestAFullBatchDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec, r := record(t)
		defer r.Close()
		for range pipeline.BatchSize {
			c := call("x", func(*redis.Cmd) {})
			c.By = time.Now().Add(time.Hour)
			r.Go(c)
		}
		synctest.Wait()
		if len(rec.batches) != 1 {
			t.Errorf("%d round trips", len(rec.batches))
		}
	})
}
