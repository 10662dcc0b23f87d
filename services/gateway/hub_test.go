package gateway

import (
	"math/rand/v2"
	"testing"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
)

func TestALargeRoomStaysOnAllShardsWhoeverComesAndGoes(t *testing.T) {
	h := &hub{ctx: t.Context(), rooms: make(map[string]*headcount)}
	h.subs = roomlog.NewSubscriber(nil, roomlog.Layout{Partitions: 64}, h)
	const shards = 4
	for range shards {
		h.shards = append(h.shards, newShard(h, newMetrics(nil)))
	}
	var groups []uint32
	join := func() {
		s, group, _ := h.enter("room", "")
		if s != h.shards[h.shardOf(group)] {
			t.Fatal("a group has two shards")
		}
		groups = append(groups, group)
	}
	for range shards * groupSize {
		join()
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 1_000 {
		i := random.IntN(len(groups))
		h.exit("room", groups[i])
		groups[i] = groups[len(groups)-1]
		groups = groups[:len(groups)-1]
		join()
	}
	for i, n := range h.rooms["room"].byShard {
		if n != groupSize {
			t.Errorf("shard %d has %d members", i, n)
		}
	}
	for _, group := range groups {
		h.exit("room", group)
	}
	if len(h.rooms) != 0 {
		t.Error("the room is still followed")
	}
}
