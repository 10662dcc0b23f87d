package redisdb_test

import (
	"testing"

	"github.com/anteroom-chat/anteroom/pkg/redisdb"
	"github.com/anteroom-chat/anteroom/pkg/redistest"
)

// A connection that Redis has closed must not be used again. Otherwise, after a restart of
// Redis, each connection that was open would make one call fail.
func TestAConnectionThatHasEndedIsNotUsedAgain(t *testing.T) {
	server := redistest.Embedded(t)
	rdb, err := redisdb.Connect("redis://" + server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer rdb.Close()
	for range 20 {
		if err := rdb.Ping(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		server.Close()
		if err := server.Restart(); err != nil {
			t.Fatal(err)
		}
	}
}
