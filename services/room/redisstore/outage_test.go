package redisstore_test

import (
	"context"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/redistest"
	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/room"
)

// operations returns all operations of a store. Each succeeds in a room "r" in which "a" has
// a seat with session "sa" and "b" has a permit.
func operations(f *fixture) map[string]func(ctx context.Context) error {
	s := f.store
	return map[string]func(ctx context.Context) error{
		"Create": func(ctx context.Context) error {
			_, err := s.Create(ctx, room.Spec{ID: "new", Epoch: "e", Capacity: 1, Presence: room.PresenceFull, EmptyTimeout: time.Hour, RequestID: "q"})
			return err
		},
		"Get":    func(ctx context.Context) error { _, err := s.Get(ctx, "r"); return err },
		"List":   func(ctx context.Context) error { _, _, err := s.List(ctx, 20, ""); return err },
		"Delete": func(ctx context.Context) error { return s.Delete(ctx, "doomed", "") },
		"Reserve": func(ctx context.Context) error {
			_, err := s.Reserve(ctx, "r", wire.Member{UserID: "c"}, "sc")
			return err
		},
		"Cancel": func(ctx context.Context) error { return s.Cancel(ctx, "r", "nothing") },
		"Confirm": func(ctx context.Context) error {
			_, err := s.Confirm(ctx, room.Join{RoomID: "r", Permit: "secret-b", Session: "sb", Gateway: "g"})
			return err
		},
		"Leave":  func(ctx context.Context) error { return s.Leave(ctx, "r", "nobody", wire.ReasonLeft, true) },
		"Remove": func(ctx context.Context) error { return s.Remove(ctx, "r", "nobody", "") },
		"Renew": func(ctx context.Context) error {
			lost, _, err := s.Renew(ctx, []room.SessionRef{{RoomID: "r", Session: "sa"}}, unsaid)
			if len(lost) > 0 {
				f.Errorf("lost %+v", lost)
			}
			return err
		},
		"Renew of a lost one": func(ctx context.Context) error {
			_, _, err := s.Renew(ctx, []room.SessionRef{{RoomID: "r", Session: "none"}}, unsaid)
			return err
		},
		"Due":    func(ctx context.Context) error { _, _, err := s.Due(ctx); return err },
		"Expire": func(ctx context.Context) error { _, err := s.Expire(ctx, visits("r", "r")); return err },
	}
}

func populate(f *fixture) {
	f.create(9)
	f.create(1, named("doomed"))
	f.walkIn("a", "sa")
	f.reserve("b")
}

func TestEveryOperationWorksAfterRedisForgotTheScripts(t *testing.T) {
	each(t, room.DefaultRules(), func(f *fixture) {
		populate(f)
		for name, operation := range operations(f) {
			f.must(f.rdb.ScriptFlush(f.ctx).Err())
			if err := operation(f.ctx); err != nil {
				f.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestAStoppedRedisIsUnavailableAndNothingElse(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t, "--appendonly", "yes", "--appendfsync", "always")
	f := newFixture(t, redistest.Client(t, server.URL()), room.DefaultRules())
	populate(f)
	server.Stop()
	for name, operation := range operations(f) {
		if err := operation(f.ctx); wire.CodeOf(err) != wire.Unavailable {
			f.Errorf("%s: %v", name, err)
		}
	}
	server.Start() // the pool's old connections are dead
	for name, operation := range operations(f) {
		f.eventually(name+" works again", func() bool {
			err := operation(f.ctx)
			if err != nil && wire.CodeOf(err) != wire.Unavailable {
				f.Fatalf("%s: %v", name, err)
			}
			return err == nil
		})
	}
	f.counts(1, 2) // c's permit, a and b
}

// A full Redis gives out no permits. A user who has a permit may use it. Members keep their
// seats and may leave.
func TestAFullRedisTakesNothingNewAndKeepsWhatThereIs(t *testing.T) {
	t.Parallel()
	f := newFixture(t, redistest.Client(t, redistest.Server(t).URL()), room.DefaultRules())
	populate(f)
	f.must(roomlog.Agree(f.ctx, f.rdb, f.layout))
	f.dueAt(1)
	f.must(f.rdb.ConfigSet(f.ctx, "maxmemory", "1").Err())
	f.wantsNoVisit()
	for name, operation := range operations(f) {
		err := operation(f.ctx)
		switch name {
		case "Create", "Reserve":
			if wire.CodeOf(err) != wire.Unavailable {
				f.Errorf("%s: %v", name, err)
			}
		default:
			if err != nil {
				f.Errorf("%s: %v", name, err)
			}
		}
	}
	f.must(roomlog.Agree(f.ctx, f.rdb, f.layout)) // a process starts
	for range 2 {                                 // the first reply was lost
		f.must(operations(f)["Confirm"](f.ctx))
		f.walkIn("a", "taken over")
	}
	f.leave("taken over")
	f.must(f.rdb.ConfigSet(f.ctx, "maxmemory", "0").Err())
	f.counts(0, 1) // b
}

func TestASilentRedisIsUnavailableWhenTheDeadlineEnds(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	f := newFixture(t, redistest.Client(t, server.URL()), room.DefaultRules())
	populate(f)
	server.Pause()
	defer server.Resume()
	for name, operation := range operations(f) {
		ctx, cancel := context.WithTimeout(f.ctx, 50*time.Millisecond)
		began := time.Now()
		if err := operation(ctx); wire.CodeOf(err) != wire.Unavailable {
			f.Errorf("%s: %v", name, err)
		}
		if took := time.Since(began); took > 2*time.Second {
			f.Errorf("%s took %v", name, took)
		}
		cancel()
	}
}

func TestARedisThatLoadsOrMayNotWriteIsUnavailable(t *testing.T) {
	t.Parallel()
	m := redistest.Embedded(t)
	f := newFixture(t, redistest.Client(t, "redis://"+m.Addr()), room.DefaultRules())
	for _, state := range []string{
		"LOADING Redis is loading the dataset in memory",
		"READONLY You can't write against a read only replica. script: 1f, on @user_script:1.",
		"OOM command not allowed when used memory > 'maxmemory'.",
		"ERR max number of clients reached",
	} {
		m.SetError(state)
		for name, operation := range operations(f) {
			if err := operation(f.ctx); wire.CodeOf(err) != wire.Unavailable {
				f.Errorf("%s on %q: %v", name, state, err)
			}
		}
	}
	m.SetError("ERR our script is wrong")
	if _, err := f.store.Get(f.ctx, "r"); wire.CodeOf(err) != wire.Internal {
		f.Errorf("a defect: %v", err)
	}
}
