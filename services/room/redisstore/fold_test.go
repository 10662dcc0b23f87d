package redisstore_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/redistest"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/room"
)

// crowd makes random calls in "r" and records the replies, to compare them with the log.
type crowd struct {
	*fixture
	capacity int

	mu      sync.Mutex
	rosters map[int64][]string // by seq: users, as Confirm told them
	permits []string
	live    []room.Join // walk-ins
	ended   []room.Join
	serial  int
}

func TestTheFoldOfTheLogIsTheRosterAndNeverOverCapacity(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		t.Parallel()
		f := newFixture(t, rdb, room.Rules{PermitTTL: 40 * time.Millisecond, Lease: 60 * time.Millisecond})
		c := &crowd{fixture: f, capacity: 4, rosters: make(map[int64][]string)}
		f.create(c.capacity, outlasting)
		var workers sync.WaitGroup
		for range 4 {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			workers.Go(func() {
				rng := rand.New(rand.NewPCG(seed, 0))
				// The log limits the number of steps, because it is read from its first entry
				// on.
				for step := 0; step < 400 && c.seq() < 900 && !t.Failed(); step++ {
					c.step(rng)
				}
			})
		}
		workers.Wait()
		c.check()
	})
}

func (c *crowd) seq() int64 {
	r, err := c.store.Get(c.ctx, "r")
	if err != nil {
		c.Error(err)
		return 0
	}
	c.counted(r)
	return r.Seq
}

func (c *crowd) counted(r room.Room) {
	if r.Reserved < 0 || r.Occupied < 0 || r.Reserved+r.Occupied > c.capacity {
		c.Errorf("reserved %d and occupied %d of %d seats at seq %d", r.Reserved, r.Occupied, c.capacity, r.Seq)
	}
}

// allowed accepts the refusals that random calls may get.
func (c *crowd) allowed(err error) {
	switch wire.CodeOf(err) {
	case wire.RoomFull, wire.PermitExpired, wire.Forbidden:
	default:
		if err != nil {
			c.Error(err)
		}
	}
}

func (c *crowd) step(rng *rand.Rand) {
	user := fmt.Sprintf("u%d", rng.IntN(7))
	switch rng.IntN(12) {
	case 0, 1:
		p, err := c.store.Reserve(c.ctx, "r", wire.Member{UserID: user, Nickname: user}, fmt.Sprintf("t%d", rng.Uint64()))
		c.allowed(err)
		if err == nil {
			c.note(func() { c.permits = append(c.permits, secretOf(p)) })
		}
	case 2:
		c.allowed(c.store.Cancel(c.ctx, "r", c.permit(rng)))
	case 3, 4:
		c.join(room.Join{Member: wire.Member{UserID: user}, Session: c.session()})
	case 5, 6:
		c.join(room.Join{Permit: c.permit(rng), Session: c.session()})
	case 7:
		if j, ok := c.pick(rng, &c.ended); ok { // a delayed call
			c.join(j)
		}
	case 8:
		if j, ok := c.pick(rng, &c.live); ok {
			c.allowed(c.store.Leave(c.ctx, "r", j.Session, wire.ReasonLeft, true))
		}
	case 9:
		var leases []room.SessionRef
		c.mu.Lock()
		for _, j := range c.live[max(0, len(c.live)-6):] {
			leases = append(leases, room.SessionRef{RoomID: "r", Session: j.Session})
		}
		c.mu.Unlock()
		_, _, err := c.store.Renew(c.ctx, leases, unsaid)
		c.allowed(err)
	case 10:
		_, err := c.store.Expire(c.ctx, visits("r"))
		c.allowed(err)
	case 11:
		if rng.IntN(3) == 0 {
			c.allowed(c.store.Remove(c.ctx, "r", user, ""))
		}
	}
}

func (c *crowd) note(what func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	what()
}

func (c *crowd) session() (id string) {
	c.note(func() { c.serial++; id = fmt.Sprintf("s%d", c.serial) })
	return id
}

// permit returns a permit that was given out, usually a recent one.
func (c *crowd) permit(rng *rand.Rand) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.permits) == 0 {
		return "none"
	}
	return c.permits[max(0, len(c.permits)-1-rng.IntN(4))]
}

func (c *crowd) pick(rng *rand.Rand, from *[]room.Join) (room.Join, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(*from) == 0 {
		return room.Join{}, false
	}
	i := max(0, len(*from)-1-rng.IntN(6))
	j := (*from)[i]
	if from == &c.live {
		c.live = slices.Delete(c.live, i, i+1)
		c.ended = append(c.ended, j)
	}
	return j, true
}

func (c *crowd) join(j room.Join) {
	joined, err := c.confirm(j)
	c.allowed(err)
	if err != nil {
		return
	}
	c.counted(joined.Room)
	c.note(func() {
		told := users(joined.Members)
		if before, ok := c.rosters[joined.Room.Seq]; ok && !slices.Equal(before, told) {
			c.Errorf("at seq %d the roster was told as %v and as %v", joined.Room.Seq, before, told)
		}
		c.rosters[joined.Room.Seq] = told
		c.live = append(c.live, room.Join{Member: wire.Member{UserID: joined.Member.UserID}, Session: j.Session})
	})
}

// check replays the log and compares every roster that a reply contained.
func (c *crowd) check() {
	in := make(map[string]bool)
	frames := c.log()
	if len(frames) == 0 || frames[0].Seq != 1 {
		c.Fatalf("%d entries; the first is missing", len(frames))
	}
	compared := 0
	for _, frame := range frames {
		user := frame.Member.UserID
		joins := frame.Type == wire.TypeMemberJoined
		if in[user] == joins {
			c.Fatalf("seq %d: %s of %s, who was in: %v", frame.Seq, frame.Type, user, in[user])
		}
		in[user] = joins
		if !joins {
			delete(in, user)
		}
		if len(in) != frame.Occupied || len(in) > c.capacity {
			c.Fatalf("seq %d says %d occupied; the fold says %d, of %d seats", frame.Seq, frame.Occupied, len(in), c.capacity)
		}
		if told, ok := c.rosters[frame.Seq]; ok {
			compared++
			fold := make([]string, 0, len(in))
			for u := range in {
				fold = append(fold, u)
			}
			slices.Sort(fold)
			if !slices.Equal(fold, told) {
				c.Fatalf("seq %d: fold %v, roster told %v", frame.Seq, fold, told)
			}
		}
	}
	c.Logf("%d entries, %d rosters compared", len(frames), compared)
}
