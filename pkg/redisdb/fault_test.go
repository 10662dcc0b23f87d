package redisdb_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/redisdb"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

func TestFaultSaysUnavailableWhereRedisIsOutOfReach(t *testing.T) {
	for _, err := range []error{io.EOF, net.ErrClosed, context.DeadlineExceeded, context.Canceled, redis.ErrClosed, redis.ErrPoolTimeout, &net.OpError{Op: "dial", Err: errors.New("refused")}} {
		got := redisdb.Fault("op", fmt.Errorf("wrapped: %w", err))
		if wire.CodeOf(got) != wire.Unavailable || !errors.Is(got, err) || !strings.HasPrefix(got.Error(), "op: ") {
			t.Errorf("%v: %v", err, got)
		}
	}
	if redisdb.Fault("op", nil) != nil {
		t.Error("no error became one")
	}
}

func TestFaultSaysInternalWhereAScriptAnswersSomethingElse(t *testing.T) {
	cmd := redis.NewCmd(t.Context())
	cmd.SetVal("text")
	_, err := cmd.Int64Slice()
	if got := redisdb.Fault("op", err); wire.CodeOf(got) != wire.Internal {
		t.Errorf("%v: %v", err, got)
	}
}
