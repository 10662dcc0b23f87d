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

// Connect returns a client for a redis:// or rediss:// URL. The client does not retry
// commands: the caller knows which ones may be retried.
func Connect(url string) (Redis, error) {
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
	return redis.NewClient(Tune(opts)), nil
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
// silent Redis is noticed within the lease, and no automatic retries.
func Tune(opts *redis.Options) *redis.Options {
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
	// Load the script on every connection. If Redis did not know it in the middle of a batch
	// while another client loads it, messages could overtake each other.
	opts.OnConnect = func(ctx context.Context, c *redis.Conn) error { return messageScript.Load(ctx, c) }
	if opts.Dialer == nil {
		opts.Dialer = dialer(opts)
	}
	opts.DisableIdentity = true
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return opts
}

// Agree records the layout in Redis, or compares it with the one that the first process of
// the cluster recorded: processes that disagree would count the same room twice. It refuses a
// Redis that cannot run the scripts. It warns if Redis may evict keys, since an evicted key
// is a lost seat.
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

// keysVersion is the version of the way in which rooms are stored in Redis (keys.go and the
// scripts). Processes of two different versions would count the same room twice.
const keysVersion = "keys 2"

// agree compares the number of partitions and keysVersion with what the cluster recorded, or
// records them. Both are in one field. The first version of Anteroom expects only the number
// of partitions there, so it refuses to start too.
func agree(ctx context.Context, rdb Redis, layout Layout) error {
	got, err := rdb.HGet(ctx, ClusterKey, "partitions").Result()
	if errors.Is(err, redis.Nil) { // HGET comes first because a full Redis refuses HSETNX
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

// record writes the field unless it exists.
func record(ctx context.Context, rdb Redis, layout Layout) error {
	return rdb.HSetNX(ctx, ClusterKey, "partitions", strconv.Itoa(layout.Partitions)+", "+keysVersion).Err()
}

// disagreement is the error for a ClusterKey that records something else.
type disagreement string

func (d disagreement) Error() string { return string(d) }

// leastRedis is the oldest major version of Redis that is tested.
const leastRedis = 7

// tooOld reports whether a version is older than leastRedis. It reports false if the version
// does not begin with a number.
func tooOld(version string) bool {
	major, _, _ := strings.Cut(version, ".")
	n, err := strconv.Atoi(major)
	return err == nil && n < leastRedis
}

// field returns the value of a field in the reply to INFO, or "" if the field is missing.
func field(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
