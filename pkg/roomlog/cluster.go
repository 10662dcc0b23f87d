package roomlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	neturl "net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/anteroom-chat/anteroom/pkg/pipeline"
)

// go-redis writes a line to stderr for each failed dial, hundreds a second in an
// outage; every such failure reaches its caller as an error too.
func init() { redis.SetLogger(debugLogger{}) }

type debugLogger struct{}

func (debugLogger) Printf(ctx context.Context, format string, v ...any) {
	if slog.Default().Enabled(ctx, slog.LevelDebug) {
		slog.DebugContext(ctx, fmt.Sprintf(format, v...))
	}
}

// Redis is what the project needs of a *redis.Client, which is always behind it. That
// type itself does not show. It holds a weak.Pointer of itself, for which the compiler
// makes its 700 methods twice over in each package whose types lead to it: 0.7 s, and
// the last packages of make run wait for each other. redis.Options and redis.PubSub
// lead to it too. So none of the three stands in what those packages use of this one:
// signatures, and the fields and methods of types, also those that are not exported.
type Redis interface {
	pipeline.Redis
	Ping(ctx context.Context) *redis.StatusCmd
	HGet(ctx context.Context, key, field string) *redis.StringCmd
	HSetNX(ctx context.Context, key, field string, value any) *redis.BoolCmd
	ConfigGet(ctx context.Context, parameter string) *redis.MapStringStringCmd
	Info(ctx context.Context, sections ...string) *redis.StringCmd
	Close() error
}

// Connect makes a client for a redis:// or rediss:// URL. Commands are not retried
// by the client: who calls knows which may be.
func Connect(url string) (Redis, error) {
	opts, err := redis.ParseURL(url)
	if bad, ok := errors.AsType[*neturl.Error](err); ok {
		err = bad.Err // and not the URL, which may hold a password
	}
	if err == nil {
		err = checkOptions(opts)
	}
	if err != nil {
		return nil, fmt.Errorf("URL of Redis: %w", err)
	}
	return redis.NewClient(Tune(opts)), nil
}

// checkOptions refuses what can only fail later, or be taken for something else: a negative
// database is not selected at all.
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

// Tune sets what the project needs of a connection: short time limits, so that a
// silent Redis is noticed within the lease, and no retries behind our back.
func Tune(opts *redis.Options) *redis.Options {
	opts.Protocol = 2 // each answer of version 3 is looked through for push messages first
	opts.MaxRetries = -1
	opts.DialTimeout = 2 * time.Second
	opts.DialerRetries = 1
	opts.ReadTimeout = 3 * time.Second
	opts.WriteTimeout = 3 * time.Second
	opts.PoolTimeout = 3 * time.Second
	// When a network goes half-open, each idle connection would cost somebody those 3 s,
	// one after the other: tens of seconds after a moment in which many were in use.
	opts.ConnMaxIdleTime = time.Second
	opts.ContextTimeoutEnabled = true
	// Every connection knows the script: were it found unknown in the middle of a batch,
	// while somebody else loads it, messages could overtake each other.
	opts.OnConnect = func(ctx context.Context, c *redis.Conn) error { return messageScript.Load(ctx, c) }
	if opts.Dialer == nil {
		opts.Dialer = dialer(opts)
	}
	opts.DisableIdentity = true
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return opts
}

// Agree records the layout in Redis, or compares it with what the first process of
// the cluster recorded: processes that disagree would count the same room twice.
// It refuses a Redis that does not know what the scripts ask of it, and warns where
// Redis may evict keys, since an evicted key is a lost seat.
func Agree(ctx context.Context, rdb Redis, layout Layout) error {
	info, err := rdb.Info(ctx, "server").Result()
	if version := field(info, "redis_version"); tooOld(version) {
		return fmt.Errorf("--redis: this is Redis %s: %d or newer is needed", version, leastRedis)
	}
	if field(info, "redis_mode") == "cluster" {
		return errors.New("--redis: this is a Redis Cluster, on which calls of several partitions cannot share a run of a script")
	}
	if redis.HasErrorPrefix(err, "NOPERM") {
		slog.Warn("Redis does not let us ask for INFO: its version and mode are not looked at, nor would another Redis that takes over be noticed", "err", err)
	}
	if err := agree(ctx, rdb, layout); err != nil {
		return err
	}
	policy, err := rdb.ConfigGet(ctx, "maxmemory-policy").Result()
	if p := policy["maxmemory-policy"]; err == nil && p != "" && p != "noeviction" {
		slog.Warn("Redis may evict keys, and with them seats: set maxmemory-policy noeviction", "policy", p)
	}
	return nil
}

// keysVersion numbers the ways in which rooms have lain in Redis (keys.go, the scripts):
// processes of two of them would count the same room twice.
const keysVersion = "keys 2"

// agree compares partitions and keysVersion with what the cluster has, or records them. They
// stand in one field, of which the first version expects the number of partitions alone: so
// that one refuses to start too.
func agree(ctx context.Context, rdb Redis, layout Layout) error {
	got, err := rdb.HGet(ctx, ClusterKey, "partitions").Result()
	if errors.Is(err, redis.Nil) { // not by HSETNX at once, which a full Redis refuses
		if err := record(ctx, rdb, layout); err != nil {
			return Fault("--redis: record partitions", err)
		}
		got, err = rdb.HGet(ctx, ClusterKey, "partitions").Result()
	}
	if err != nil {
		return Fault("--redis: read partitions", err)
	}
	of, version, _ := strings.Cut(got, ", ")
	switch partitions := strconv.Itoa(layout.Partitions); {
	case version != keysVersion:
		return disagreement("--redis: another version of Anteroom keeps its rooms there, under other keys: " +
			"stop that one and empty its database, or give this one another")
	case of != partitions:
		return disagreement("this cluster has " + of + " partitions, --partitions says " + partitions + ": they must agree")
	}
	return nil
}

// record writes what is not there yet.
func record(ctx context.Context, rdb Redis, layout Layout) error {
	return rdb.HSetNX(ctx, ClusterKey, "partitions", strconv.Itoa(layout.Partitions)+", "+keysVersion).Err()
}

// disagreement is about what ClusterKey records.
type disagreement string

func (d disagreement) Error() string { return string(d) }

// leastRedis is the oldest major version of Redis that is tried.
const leastRedis = 7

// tooOld knows nothing of versions that do not begin with a number.
func tooOld(version string) bool {
	major, _, _ := strings.Cut(version, ".")
	n, err := strconv.Atoi(major)
	return err == nil && n < leastRedis
}

// field is the value of a field in what INFO answers, "" where it is not there.
func field(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
