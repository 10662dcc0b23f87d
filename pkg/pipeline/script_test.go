package pipeline_test

import (
	"context"
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
	"github.com/anteroom-chat/anteroom/pkg/redisdb"
	"github.com/anteroom-chat/anteroom/pkg/redistest"
)

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

// go-redis turns these errors into other types, and stops reading an array when it meets one.
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
			c.Script, c.MayWaitUntil = []*pipeline.Script{refuse, echo, other, refuse}[n%4], by
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
		c.MayWaitUntil = time.Now().Add(10 * time.Millisecond)
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

// Through DNS or a virtual IP, another Redis takes over, and the old one goes on as a
// replica.
func TestCallsFindTheRedisThatHasTakenOver(t *testing.T) {
	t.Parallel()
	old, next := redistest.Server(t), redistest.Server(t)
	var at atomic.Pointer[redistest.Redis]
	at.Store(old)
	rdb := redis.NewClient(redisdb.Tune(&redis.Options{Dialer: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", at.Load().Socket())
	}}))
	t.Cleanup(func() { _ = rdb.Close() })
	r := start(t, rdb)
	goesOn := func() error {
		var err error
		for by := time.Now().Add(10 * time.Second); time.Now().Before(by); time.Sleep(20 * time.Millisecond) {
			rdb.Ping(t.Context()) // it must not matter that other connections are used,
			reads := call("", func(*redis.Cmd) {})
			reads.Script, reads.MayWaitUntil = pipeline.NewScript("", "return 1"), time.Now().Add(time.Millisecond)
			r.Go(reads) // or that some calls succeed
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

func TestCallsOfOneScriptShareARun(t *testing.T) {
	other := pipeline.NewScript("", "return 0")
	for name, test := range map[string]struct {
		scripts []*pipeline.Script
		keys    []string // additional keys of the third call
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
					c.Script, c.MayWaitUntil = script, rec.began.Add(time.Millisecond)
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
			c.MayWaitUntil = rec.began.Add(time.Millisecond)
			r.Go(c)
		}
		time.Sleep(2 * time.Millisecond)
		r.Close()
		if len(rec.batches) != 1 || !strings.HasSuffix(rec.batches[0], " x | x") || strings.Count(rec.batches[0], "|") != 1 {
			t.Errorf("got %q", rec.batches)
		}
	})
}
