package roomlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/redisdb"
)

// Connect returns a client for a redis:// or rediss:// URL. Each of its connections loads the
// script that appends messages: if Redis did not know it in the middle of a batch while another
// client loads it, messages could overtake each other.
func Connect(url string) (redisdb.Redis, error) { return redisdb.Connect(url, messageScript) }

// Tune sets the options of a connection as Connect does.
func Tune(opts *redis.Options) *redis.Options { return redisdb.Tune(opts, messageScript) }

// Agree records the layout in Redis, or compares it with the one that the first process of
// the cluster recorded: processes that disagree would count the same room twice. It refuses a
// Redis that cannot run the scripts. It warns if Redis may evict keys, since an evicted key
// is a lost seat.
func Agree(ctx context.Context, rdb redisdb.Redis, layout Layout) error {
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
func agree(ctx context.Context, rdb redisdb.Redis, layout Layout) error {
	got, err := rdb.HGet(ctx, ClusterKey, "partitions").Result()
	if errors.Is(err, redis.Nil) { // HGET comes first because a full Redis refuses HSETNX
		if err := record(ctx, rdb, layout); err != nil {
			return redisdb.Fault("--redis: record partitions", err)
		}
		got, err = rdb.HGet(ctx, ClusterKey, "partitions").Result()
	}
	if err != nil {
		return redisdb.Fault("--redis: read partitions", err)
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
func record(ctx context.Context, rdb redisdb.Redis, layout Layout) error {
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
