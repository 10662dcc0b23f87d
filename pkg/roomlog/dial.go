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

// SyscallConn is what go-redis looks at a connection by, before each use, for an end or
// anything else that has come unasked.
func (c conn) SyscallConn() (syscall.RawConn, error) {
	raw, err := c.Conn.SyscallConn()
	return looked{raw, c}, err
}

// looked has looked itself, which costs less (see rawtcp).
type looked struct {
	syscall.RawConn
	conn conn
}

// Read does not call look where it would find nothing.
func (l looked) Read(look func(fd uintptr) bool) error {
	if l.conn.Idle() {
		return nil
	}
	return l.RawConn.Read(look)
}
