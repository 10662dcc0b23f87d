package redisdb

import (
	"context"
	"net"
	"syscall"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/rawtcp"
)

// dialer returns a function that connects to Redis as go-redis does, but returns a
// rawtcp.Conn if it can.
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

// SyscallConn returns what go-redis checks a connection with before each use: the connection
// may have ended, or unexpected data may have arrived.
func (c conn) SyscallConn() (syscall.RawConn, error) {
	raw, err := c.Conn.SyscallConn()
	return idleFirst{raw, c}, err
}

// idleFirst spares go-redis its own check if the connection is idle. That check is a system
// call that Go's scheduler is told of (see rawtcp).
type idleFirst struct {
	syscall.RawConn
	conn conn
}

// Read runs go-redis' check unless the connection is idle.
func (i idleFirst) Read(look func(fd uintptr) bool) error {
	if i.conn.Idle() {
		return nil
	}
	return i.RawConn.Read(look)
}
