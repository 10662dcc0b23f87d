package e2e

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
)

// pubsubKillsFor is the environment variable with the time for which subscriptions are killed
// once a second. The default keeps `make test` short; 1m is the full test.
const pubsubKillsFor = "PUBSUB_KILLS_FOR"

func TestNothingIsLostWhenSubscriptionsAreKilledEverySecond(t *testing.T) {
	t.Parallel()
	kills := 8 * time.Second
	if text, ok := os.LookupEnv(pubsubKillsFor); ok {
		var err error
		kills, err = time.ParseDuration(text)
		must(t, err)
	}
	v := start(t, cluster.Options{})
	k := startTalk(t, v, talkOptions{rooms: 20, each: 10, every: time.Second})
	killed := int64(0)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range kills / time.Second {
		<-tick.C
		n, err := v.redis.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Result()
		must(t, err)
		killed += n
	}
	k.settled(3*soon, nil)
	k.finish(3 * soon)
	k.table("CLIENT KILL TYPE pubsub every second",
		[2]any{"subscriptions killed", fmt.Sprintf("%d in %v", killed, kills)})
	k.judge()
	if killed < int64(kills/time.Second) {
		t.Errorf("%d subscriptions were killed in %v", killed, kills)
	}
}

func TestNothingIsLostWhenRedisIsKilledAndReadsItsFileBack(t *testing.T) {
	t.Parallel()
	v := start(t, cluster.Options{})
	k := startTalk(t, v, talkOptions{rooms: 20, each: 10, every: time.Second})
	const kills = 3
	for n := range kills {
		k.settled(3*soon, nil)
		must(t, v.Redis.Kill())
		time.Sleep(time.Duration(n) * time.Second) // an outage of no, one and two seconds
		must(t, v.Redis.Start(within(t, soon)))
	}
	k.settled(3*soon, nil)
	k.finish(3 * soon)
	k.table("Redis killed with -9, with its append-only file", [2]any{"kills", kills})
	k.judge()
}
