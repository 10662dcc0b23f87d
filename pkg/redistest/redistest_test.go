package redistest

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestEachServerStartsEmptyAndKeysLapse(t *testing.T) {
	Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx := context.Background()
		if n := rdb.DBSize(ctx).Val(); n != 0 {
			t.Fatalf("%d keys in a new server", n)
		}
		if err := rdb.Set(ctx, "k", "v", 20*time.Millisecond).Err(); err != nil {
			t.Fatal(err)
		}
		for rdb.Exists(ctx, "k").Val() == 1 {
			time.Sleep(time.Millisecond)
		}
	})
}

func TestServerIsOutOfReachWhileStoppedAndAnswersAfterStart(t *testing.T) {
	server := Server(t)
	rdb := Client(t, server.URL())
	server.Stop()
	if err := rdb.Ping(context.Background()).Err(); err == nil {
		t.Fatal("a stopped server answered")
	}
	server.Start()
	if err := rdb.Ping(context.Background()).Err(); err != nil {
		t.Fatal(err)
	}
}
