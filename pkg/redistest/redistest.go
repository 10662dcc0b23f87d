// Package redistest gives each test a Redis of its own: the embedded one that `anteroom dev`
// runs on, or a real redis-server. The store must keep its rules on both.
package redistest

import (
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
)

// Embedded starts a miniredis whose keys expire in real time, or by SetTime.
func Embedded(tb testing.TB) *miniredis.Miniredis {
	tb.Helper()
	m := miniredis.RunT(tb)
	m.ClockTTL(true)
	return m
}

// Client connects to a redis:// or unix:// URL in the same way as the project's processes. It
// closes the client when the test ends.
func Client(tb testing.TB, url string) *redis.Client {
	tb.Helper()
	rdb, err := roomlog.Connect(url)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = rdb.Close() })
	return rdb.(*redis.Client)
}

// Each runs a test twice, on an empty Redis of each kind.
func Each(t *testing.T, test func(t *testing.T, rdb *redis.Client)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		test(t, Client(t, "redis://"+Embedded(t).Addr()))
	})
	t.Run("redis", func(t *testing.T) {
		test(t, Client(t, Server(t).URL()))
	})
}
