// Package e2e tests Anteroom as its users have it: real binaries on a loopback
// cluster, real Redis and HAProxy, kill -9, a real browser.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
)

// soon is a limit for things that take milliseconds unless the machine is very busy.
const soon = 10 * time.Second

// freedWithin is from rule I8 of docs/protocol.md: the seats of a process that died are free
// after 17 s.
const freedWithin = 17 * time.Second

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until a condition holds, and returns how long that took.
func eventually(t *testing.T, d time.Duration, what string, holds func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !holds() {
		if time.Since(began) > d {
			t.Fatalf("not within %v: %s", d, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(began)
}

// venue is a cluster together with a client of it.
type venue struct {
	*cluster.Cluster
	*client.Client
	redis *redis.Client
}

func start(t *testing.T, o cluster.Options) *venue {
	t.Helper()
	c := cluster.Start(t, o)
	return &venue{Cluster: c, Client: c.Client(t), redis: c.RedisClient(t)}
}

func (v *venue) room(t *testing.T, spec client.RoomSpec) client.Room {
	t.Helper()
	room, err := v.CreateRoom(within(t, soon), spec)
	must(t, err)
	return room
}

func (v *venue) identity(t *testing.T, nickname string) client.Identity {
	t.Helper()
	id, err := v.Identity(within(t, soon), nickname)
	must(t, err)
	return id
}

// join joins through the gateway at base, or through HAProxy if base is empty.
func (v *venue) join(t *testing.T, base, roomID string, who client.Identity) *client.Session {
	t.Helper()
	s, err := v.Join(within(t, soon), client.JoinOptions{RoomID: roomID, Identity: who.Identity, BaseURL: base})
	must(t, err)
	t.Cleanup(s.Abort)
	return s
}

// occupancy asks Redis directly: a GET of the room would drop what has lapsed before it counts.
func (v *venue) occupancy(t *testing.T, roomID string) (reserved, occupied int64) {
	t.Helper()
	keys, ctx := v.Layout().Keys(roomID), within(t, soon)
	var err error
	reserved, err = v.redis.ZCard(ctx, keys.Permits()).Result()
	must(t, err)
	occupied, err = v.redis.HLen(ctx, keys.Sessions()).Result()
	must(t, err)
	return reserved, occupied
}

// roomExists asks Redis directly whether the room is there, lapsed or not.
func (v *venue) roomExists(t *testing.T, roomID string) bool {
	t.Helper()
	n, err := v.redis.Exists(within(t, soon), v.Layout().Keys(roomID).Room()).Result()
	must(t, err)
	return n == 1
}

// wantNoTrace checks that Redis holds no key of the room and no entry for it in an index.
func (v *venue) wantNoTrace(t *testing.T, roomID string) {
	t.Helper()
	ctx := within(t, soon)
	keys := v.redis.Scan(ctx, 0, "*", 1000).Iterator()
	for keys.Next(ctx) {
		key := keys.Val()
		if strings.Contains(key, ":"+roomID+":") {
			t.Errorf("Redis still has the key %s", key)
		}
		if strings.HasSuffix(key, ":rooms") || strings.HasSuffix(key, ":due") {
			if err := v.redis.ZScore(ctx, key, roomID).Err(); !errors.Is(err, redis.Nil) {
				t.Errorf("%s still names the room: %v", key, err)
			}
		}
		if strings.HasSuffix(key, ":leases") {
			for _, lease := range v.redis.ZRange(ctx, key, 0, -1).Val() {
				if strings.HasPrefix(lease, roomlog.Lease(roomID, "")) {
					t.Errorf("%s still has %q", key, lease)
				}
			}
		}
	}
	must(t, keys.Err())
}

// receive waits for the first frame of a type, and returns it and the frames before it.
func receive(t *testing.T, s *client.Session, d time.Duration, kind string) (wire.ServerFrame, []wire.ServerFrame) {
	t.Helper()
	ctx := within(t, d)
	var before []wire.ServerFrame
	for {
		f, err := s.Receive(ctx)
		if err != nil {
			t.Fatalf("waiting for %s behind %v: %v", kind, types(before), err)
		}
		if f.Type == kind {
			return f, before
		}
		before = append(before, f)
	}
}

func types(frames []wire.ServerFrame) []string {
	names := make([]string, len(frames))
	for i, f := range frames {
		names[i] = f.Type
	}
	return names
}

// wantNext sends a marker from one session, and checks that it is the next frame that the
// other one receives: nothing else has happened in the room.
func wantNext(t *testing.T, from, to *client.Session, marker string) {
	t.Helper()
	must(t, from.Send(within(t, soon), marker, marker))
	f, before := receive(t, to, soon, wire.TypeMessage)
	if f.ID != marker || len(before) > 0 {
		t.Errorf("before %q came %v and the message %q", marker, types(before), f.ID)
	}
}

// wantClose reads up to the end of the connection and checks the close code.
func wantClose(t *testing.T, s *client.Session, d time.Duration, codes ...wire.CloseCode) {
	t.Helper()
	ctx := within(t, d)
	for {
		_, err := s.Receive(ctx)
		if err == nil {
			continue
		}
		end, ok := errors.AsType[*client.CloseError](err)
		if !ok {
			t.Fatalf("still open after %v, want the end with %d", d, codes)
		}
		for _, code := range codes {
			if end.Code == code {
				return
			}
		}
		t.Fatalf("%v, want %d", end, codes)
	}
}

// wantRefusal checks the error code in err, and with it the HTTP status or close code.
func wantRefusal(t *testing.T, err error, code wire.Code) {
	t.Helper()
	if !errors.Is(err, &wire.Error{Code: code}) {
		t.Errorf("got %v, want %s", err, code)
		return
	}
	if e, ok := errors.AsType[*client.StatusError](err); ok && e.Status != code.Translate().HTTP {
		t.Errorf("%s came with HTTP %d", code, e.Status)
	}
	if e, ok := errors.AsType[*client.JoinError](err); ok && (e.Close == nil || e.Close.Code != code.Translate().Close) {
		t.Errorf("%s came with %v", code, e.Close)
	}
}

// took logs how long something took for which the project promises a limit.
func took(t *testing.T, what string, d time.Duration) {
	t.Helper()
	t.Logf("figure: %s: %s", what, fmt.Sprintf("%.2f s", d.Seconds()))
}
