package redisdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// Fault translates an error of go-redis. If Redis is out of reach or not ready, so that
// nothing is known, the result is UNAVAILABLE. Otherwise the fault is ours, and the result is
// the error itself, wrapped with the operation.
func Fault(op string, err error) error {
	if err == nil {
		return nil
	}
	if known := (*wire.Error)(nil); !errors.As(err, &known) && unreachable(err) {
		return fmt.Errorf("%s: %w: %w", op, err, wire.Errorf(wire.Unavailable, "the store is out of reach"))
	}
	return fmt.Errorf("%s: %w", op, err)
}

func unreachable(err error) bool {
	var netErr net.Error
	if errors.As(err, &netErr) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, redis.ErrClosed) || errors.Is(err, redis.ErrPoolTimeout) || errors.Is(err, redis.ErrPoolExhausted) {
		return true
	}
	var answered redis.Error
	if !errors.As(err, &answered) {
		// An error of go-redis itself means that it could not talk to the server. The
		// exception is "unexpected type": a reply of a type that our scripts never return.
		return !strings.HasPrefix(err.Error(), "redis: unexpected type")
	}
	for _, state := range []string{"LOADING", "READONLY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "OOM", "MISCONF", "BUSY", "NOREPLICAS", "ERR max number of clients"} {
		if strings.HasPrefix(answered.Error(), state) {
			return true
		}
	}
	return false
}
