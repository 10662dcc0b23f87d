package roomlog

import (
	"context"
	"net"
	"syscall"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/rawtcp"
)

// dialer makes connections to Redis as go-redis does, but for their system calls.
func dialer(opts *redis.Options) func(ctx context.Context, network, address string) (net.Conn, error) {
	dial := redis.NewDialer(opts)
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if raw, ok := rawtcp.Wrap(c).(*rawtcp.Conn); ok {
			return conn{raw}, nil
		}
		return c, nil // TLS, or a Unix socket
	}
}

// conn is a connection to Redis.
type conn struct{ *rawtcp.Conn }

// SyscallConn is what go-redis looks at a connection by, before each use: it may have ended,
// or something have come that nobody asked for.
func (c conn) SyscallConn() (syscall.RawConn, error) {
	raw, err := c.Conn.SyscallConn()
	return idleFirst{raw, c}, err
}

// idleFirst saves go-redis its look, which is a system call that the scheduler is told of,
// where there is nothing to find.
type idleFirst struct {
	syscall.RawConn
	conn conn
}

// Read lets go-redis look, unless the connection is idle.
func (i idleFirst) Read(look func(fd uintptr) bool) error {
	if i.conn.Idle() {
		return nil
	}
	return i.RawConn.Read(look)
}
