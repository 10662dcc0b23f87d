package pipeline_test

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
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
	each(t, func(t *testing.T, rdb *redis.Client, r *pipeline.Runner) {
		rdb.Set(t.Context(), "no list", "", 0)
		refuse := pipeline.NewScript("", `return redis.error_reply('WRONG it is')`)
		fault := pipeline.NewScript("", `error('WRONG in ' .. KEYS[1])`)
		var done sync.WaitGroup
		length := 0
		for n := range 300 {
			done.Add(1)
			c := call("x", nil)
			switch n % 5 {
			case 1:
				c.Keys = []string{"no list"}
			case 2:
				c.Script = refuse
			case 3:
				c.Script = fault
			default:
				length++
			}
			want, fails := length, n%5 > 0 && n%5 < 4
			c.Done = func(cmd *redis.Cmd) {
				defer done.Done()
				got, err := cmd.Int()
				if fails && (err == nil || !strings.Contains(err.Error(), "WRONG")) || !fails && (err != nil || got != want) {
					t.Errorf("call %d: %d, %v", n, got, err)
				}
			}
			r.Go(c)
		}
		done.Wait()
	})
}

// Of which go-redis makes errors of other types, behind which it reads no array on.
func TestNobodyGetsAnothersAnswerWhereRedisIsFull(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t, redistest.Server(t).URL())
	r := start(t, rdb)
	for _, fault := range []string{"OOM", "NOREPLICAS", "LOADING", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN", "MOVED 1 a:1", "NOPERM", "NOSCRIPT"} {
		refuse := pipeline.NewScript("", "return redis.error_reply('"+fault+" it is')")
		echo := pipeline.NewScript("", "return ARGV[1]")
		other := pipeline.NewScript("", "return ARGV[1] -- and nothing else")
		by := time.Now().Add(10 * time.Millisecond)
		var done sync.WaitGroup
		for n := range 40 {
			done.Add(1)
			c := call(strconv.Itoa(n), nil)
			c.Script, c.By = []*pipeline.Script{refuse, echo, other, refuse}[n%4], by
			c.Done = func(cmd *redis.Cmd) {
				defer done.Done()
				if c.Script == refuse {
					if !redis.HasErrorPrefix(cmd.Err(), fault) {
						t.Errorf("%s: call %d: %v, %v", fault, n, cmd.Val(), cmd.Err())
					}
				} else if got, err := cmd.Text(); err != nil || got != strconv.Itoa(n) {
					t.Errorf("%s: call %d: %q, %v", fault, n, got, err)
				}
			}
			r.Go(c)
		}
		done.Wait()
	}
	if err := rdb.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	for n := range 20 {
		done.Add(1)
		c := call("x", nil)
		c.By = time.Now().Add(10 * time.Millisecond)
		if n%2 == 0 {
			c.Script = pipeline.NewScript("", "return "+strconv.Itoa(n))
		}
		c.Done = func(cmd *redis.Cmd) {
			defer done.Done()
			if n%2 == 1 {
				if !redis.HasErrorPrefix(cmd.Err(), "OOM") {
					t.Errorf("call %d: %v, %v", n, cmd.Val(), cmd.Err())
				}
			} else if got, err := cmd.Int(); err != nil || got != n {
				t.Errorf("call %d: %d, %v", n, got, err)
			}
		}
		r.Go(c)
	}
	done.Wait()
}

// By DNS or a virtual IP, another Redis has taken over, and the old one goes on as a replica.
func TestCallsFindTheRedisThatHasTakenOver(t *testing.T) {
	t.Parallel()
	old, next := redistest.Server(t), redistest.Server(t)
	var at atomic.Pointer[redistest.Redis]
	at.Store(old)
	rdb := redis.NewClient(roomlog.Tune(&redis.Options{Dialer: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", at.Load().Socket())
	}}))
	t.Cleanup(func() { _ = rdb.Close() })
	r := start(t, rdb)
	goesOn := func() error {
		var err error
		for by := time.Now().Add(10 * time.Second); time.Now().Before(by); time.Sleep(20 * time.Millisecond) {
			rdb.Ping(t.Context()) // nor does it help that other connections are used,
			reads := call("", func(*redis.Cmd) {})
			reads.Script, reads.By = pipeline.NewScript("", "return 1"), time.Now().Add(time.Millisecond)
			r.Go(reads) // or that some calls are carried out
			if err = r.Run(t.Context(), push, []string{"list"}, "x").Err(); err == nil {
				return nil
			}
		}
		return err
	}
	if err := goesOn(); err != nil {
		t.Fatal(err)
	}
	at.Store(next)
	if err := redistest.Client(t, old.URL()).Do(t.Context(), "REPLICAOF", "127.0.0.1", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if err := goesOn(); err != nil {
		t.Fatal(err)
	}
	if n := redistest.Client(t, next.URL()).LLen(t.Context(), "list").Val(); n != 1 {
		t.Errorf("%d were pushed", n)
	}
}

func TestAScriptThatDoesNotAnswerEachCallAnswersNone(t *testing.T) {
	each(t, func(t *testing.T, _ *redis.Client, r *pipeline.Runner) {
		for _, operation := range []string{"", "return nil", "answers = 1"} {
			if err := r.Run(t.Context(), pipeline.NewScript("", operation), nil).Err(); err == nil {
				t.Errorf("%q was taken for an operation", operation)
			}
		}
	})
}

func TestRunAllAnswersInTheOrderOfItsCalls(t *testing.T) {
	each(t, func(t *testing.T, rdb *redis.Client, _ *pipeline.Runner) {
		if got := pipeline.RunAll(t.Context(), rdb, push, 0, nil); len(got) != 0 {
			t.Error(got)
		}
		const calls = pipeline.RunSize
		for range 2 {
			if err := rdb.ScriptFlush(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			before := int(rdb.LLen(t.Context(), "list").Val())
			for n, cmd := range pipeline.RunAll(t.Context(), rdb, push, calls, func(i int) ([]string, []any) {
				return []string{"list"}, []any{i}
			}) {
				if length, err := cmd.Int(); err != nil || length != before+n+1 {
					t.Fatalf("call %d: %d, %v", n, length, err)
				}
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

func TestCallsOfOneScriptShareARun(t *testing.T) {
	other := pipeline.NewScript("", "return 0")
	for name, test := range map[string]struct {
		scripts []*pipeline.Script
		keys    []string // of the third call, besides its own
		args    []any
		want    string
	}{
		"one":       {[]*pipeline.Script{push, push, push}, nil, nil, "1ms: 0 1 2"},
		"two":       {[]*pipeline.Script{push, other, push, other, other}, nil, nil, "1ms: 0 2 | 1 3 4"},
		"more keys": {[]*pipeline.Script{push, push, push, push}, []string{"more"}, nil, "1ms: 0 1 | 2 | 3"},
		"more args": {[]*pipeline.Script{push, push, push, push}, nil, []any{"more"}, "1ms: 0 1 | 2 more | 3"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rec, r := record(t)
				for i, script := range test.scripts {
					c := call(strconv.Itoa(i), func(*redis.Cmd) {})
					c.Script, c.By = script, rec.began.Add(time.Millisecond)
					if i == 2 {
						c.Keys, c.Args = append(c.Keys, test.keys...), append(c.Args, test.args...)
					}
					r.Go(c)
				}
				time.Sleep(2 * time.Millisecond)
				r.Close()
				if !slices.Equal(rec.batches, []string{test.want}) {
					t.Errorf("got %q, want %q", rec.batches, test.want)
				}
			})
		})
	}
}

func TestARunIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec, r := record(t)
		for range pipeline.RunSize/2 + 1 {
			c := call("x", func(*redis.Cmd) {})
			c.By = rec.began.Add(time.Millisecond)
			r.Go(c)
		}
		time.Sleep(2 * time.Millisecond)
		r.Close()
		if len(rec.batches) != 1 || !strings.HasSuffix(rec.batches[0], " x | x") || strings.Count(rec.batches[0], "|") != 1 {
			t.Errorf("got %q", rec.batches)
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
