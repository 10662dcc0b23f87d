// Package redisdb connects to Redis, and translates the errors of go-redis. It knows nothing of
// what the project keeps there.
package redisdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	neturl "net/url"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/anteroom-chat/anteroom/pkg/pipeline"
)

// go-redis writes a line to stderr for each failed dial: hundreds a second in an outage. Each
// such failure also reaches a caller as an error.
func init() { redis.SetLogger(debugLogger{}) }

type debugLogger struct{}

func (debugLogger) Printf(ctx context.Context, format string, v ...any) {
	if slog.Default().Enabled(ctx, slog.LevelDebug) {
		slog.DebugContext(ctx, fmt.Sprintf(format, v...))
	}
}

// Redis is the part of *redis.Client that the project uses. The value is always a
// *redis.Client, but other packages must not see that type. It holds a weak.Pointer to
// itself, and because of that the compiler generates its 700 methods twice in each package
// whose types lead to it. This costs 0.7 s, and the last packages of make run wait for each
// other. redis.Options and redis.PubSub lead to redis.Client too. So none of the three may
// appear in what those packages use of this one: signatures, and the fields and methods of
// types, also those that are not exported.
type Redis interface {
	pipeline.Redis
	Ping(ctx context.Context) *redis.StatusCmd
	HGet(ctx context.Context, key, field string) *redis.StringCmd
	HSetNX(ctx context.Context, key, field string, value any) *redis.BoolCmd
	ConfigGet(ctx context.Context, parameter string) *redis.MapStringStringCmd
	Info(ctx context.Context, sections ...string) *redis.StringCmd
	Close() error
}

// Connect returns a client for a redis:// or rediss:// URL, which loads the scripts on each of
// its connections. The client does not retry commands: the caller knows which ones may be
// retried.
func Connect(url string, scripts ...*pipeline.Script) (Redis, error) {
	opts, err := redis.ParseURL(url)
	if bad, ok := errors.AsType[*neturl.Error](err); ok {
		err = bad.Err // not the URL, which may contain a password
	}
	if err == nil {
		err = checkOptions(opts)
	}
	if err != nil {
		return nil, fmt.Errorf("URL of Redis: %w", err)
	}
	return redis.NewClient(Tune(opts, scripts...)), nil
}

// checkOptions refuses options that would fail only later, or would be misunderstood:
// go-redis ignores a negative database number.
func checkOptions(opts *redis.Options) error {
	if opts.DB < 0 {
		return fmt.Errorf("database %d does not exist", opts.DB)
	}
	if opts.Network == "unix" {
		return nil
	}
	_, port, err := net.SplitHostPort(opts.Addr)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	return err
}

// Tune sets the connection options that the project needs: short time limits, so that a
// silent Redis is noticed within the lease, and no automatic retries. Each connection loads the
// scripts first.
func Tune(opts *redis.Options, scripts ...*pipeline.Script) *redis.Options {
	opts.Protocol = 2 // go-redis searches each reply of version 3 for push messages first
	opts.MaxRetries = -1
	opts.DialTimeout = 2 * time.Second
	opts.DialerRetries = 1
	opts.ReadTimeout = 3 * time.Second
	opts.WriteTimeout = 3 * time.Second
	opts.PoolTimeout = 3 * time.Second
	// When a network goes half-open, each idle connection would cost some caller those 3 s,
	// one connection after the other. After a moment in which many connections were in use,
	// that would take tens of seconds.
	opts.ConnMaxIdleTime = time.Second
	opts.ContextTimeoutEnabled = true
	opts.OnConnect = func(ctx context.Context, c *redis.Conn) error {
		for _, s := range scripts {
			if err := s.Load(ctx, c); err != nil {
				return err
			}
		}
		return nil
	}
	if opts.Dialer == nil {
		opts.Dialer = dialer(opts)
	}
	opts.DisableIdentity = true
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return opts
}
