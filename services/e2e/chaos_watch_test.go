package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/audit"
)

const (
	lookEvery = 300 * time.Millisecond // at each room
	// lateBy is how long a lease or permit may stay in Redis after its end: the 17 s of I8
	// minus the lease.
	lateBy = freedWithin - wire.Lease
	// recovery is how long the reapers may need after Redis was away: they give up
	// connections that hang after 3 s, and their round after 5 s.
	recovery = 7 * time.Second
)

// watch looks directly into Redis while the storm goes on: at each room's counts, its seats
// and its log.
type watch struct {
	v     *venue
	lives map[string]*watched // by room and epoch

	mu       sync.Mutex // guards what follows
	away     time.Time  // the last time when Redis was away
	killed   map[string]time.Time
	looks    int
	over     int // moments over capacity
	holes    int // seqs missing, double or set back
	entries  int
	seated   int // seats taken at the last look
	problems []string
}

// watched is one life of a room.
type watched struct {
	*audit.Room
	last int64                // seq up to which the log was read
	seen map[string]time.Time // session → when it was first seen
}

func newWatch(v *venue) *watch {
	return &watch{v: v, lives: make(map[string]*watched), away: time.Now(), killed: make(map[string]time.Time)}
}

// redisAway notes that Redis is away, or has just come back.
func (w *watch) redisAway() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.away = time.Now()
}

// gatewayKilled notes that a gateway has died now.
func (w *watch) gatewayKilled(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.killed[name] = time.Now()
}

// tell records a violation.
func (w *watch) tell(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

func (w *watch) found(vs []audit.Violation) {
	for _, v := range vs {
		w.count(v.Kind, v.Count)
		w.tell("%s", v)
	}
}

func (w *watch) count(kind audit.Kind, n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch kind {
	case audit.OverCapacity:
		w.over++
	case audit.SeqMissing, audit.SeqDouble, audit.SeqConflict, audit.SetBack:
		w.holes += int(n)
	}
}

// taken returns how many seats were taken at the last look.
func (w *watch) taken() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seated
}

// run looks at every room until ctx ends, and then replays their logs.
func (w *watch) run(ctx context.Context) {
	for ctx.Err() == nil {
		began := time.Now()
		rooms, err := w.rooms(ctx)
		seated := 0
		for i := 0; err == nil && i < len(rooms); i++ {
			var n int
			n, err = w.look(ctx, rooms[i])
			seated += n
		}
		w.mu.Lock()
		if err == nil {
			w.looks, w.seated = w.looks+1, seated
		} else if ctx.Err() == nil {
			w.away = time.Now()
		}
		w.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(max(lookEvery-time.Since(began), lookEvery/3)):
		}
	}
	for _, l := range w.lives {
		w.found(l.Audit())
		w.entries += l.Entries()
	}
}

func (w *watch) rooms(ctx context.Context) ([]string, error) {
	layout := w.v.Layout()
	asked := make([]*redis.StringSliceCmd, layout.Partitions)
	_, err := w.v.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range asked {
			asked[i] = p.ZRange(ctx, roomlog.RoomsKey(i), 0, -1)
		}
		return nil
	})
	var rooms []string
	for _, a := range asked {
		rooms = append(rooms, a.Val()...)
	}
	return rooms, err
}

// glance is what one room's keys held at one moment.
type glance struct {
	id, epoch       string
	capacity        int
	seq             int64
	now             time.Time
	permits, leases []redis.Z
	seats, sessions map[string]string
	log             []redis.XMessage // entries after those that were read before
}

// look reads a room in one transaction, checks it, and returns how many seats are taken.
func (w *watch) look(ctx context.Context, id string) (seated int, err error) {
	g, presence, err := w.glance(ctx, id)
	if err != nil || g.epoch == "" {
		return 0, err
	}
	key := id + " " + g.epoch
	l := w.lives[key]
	if l == nil {
		l = &watched{seen: make(map[string]time.Time), Room: audit.NewRoom(audit.Life{
			RoomID: id, Epoch: g.epoch, Capacity: g.capacity, Counted: presence == "count", Complete: true,
		})}
		w.lives[key] = l
	}
	w.follow(l, g)
	w.seats(l, g)
	w.late(l, g)
	return len(g.leases) + len(g.permits), nil
}

// glance reads a room's keys in one transaction. It returns nothing if the room is just being
// deleted or created anew.
func (w *watch) glance(ctx context.Context, id string) (g glance, presence string, err error) {
	k := w.v.Layout().Keys(id)
	before, err := w.v.redis.HGet(ctx, k.Room(), "epoch").Result()
	if errors.Is(err, redis.Nil) {
		return g, "", nil
	} else if err != nil {
		return g, "", err
	}
	from := int64(1)
	if l := w.lives[id+" "+before]; l != nil {
		from = l.last + 1
	}
	answers, err := w.v.redis.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.HMGet(ctx, k.Room(), "epoch", "capacity", "presence", "seq")
		p.Time(ctx)
		p.ZRangeWithScores(ctx, k.Permits(), 0, -1)
		p.ZRangeWithScores(ctx, k.Leases(), 0, -1)
		p.HGetAll(ctx, k.Seats())
		p.HGetAll(ctx, k.Sessions())
		p.XRange(ctx, k.Log(), strconv.FormatInt(from, 10), "+")
		return nil
	})
	if err != nil {
		return g, "", err
	}
	var of struct {
		Epoch    string `redis:"epoch"`
		Capacity int    `redis:"capacity"`
		Presence string `redis:"presence"`
		Seq      int64  `redis:"seq"`
	}
	if err := answers[0].(*redis.SliceCmd).Scan(&of); err != nil || of.Epoch != before {
		return g, "", err
	}
	var leases []redis.Z // of this room, by session
	for _, z := range answers[3].(*redis.ZSliceCmd).Val() {
		lease, _ := z.Member.(string)
		if session, ok := strings.CutPrefix(lease, roomlog.Lease(id, "")); ok {
			leases = append(leases, redis.Z{Score: z.Score, Member: session})
		}
	}
	return glance{
		id: id, epoch: of.Epoch, capacity: of.Capacity, seq: of.Seq, now: answers[1].(*redis.TimeCmd).Val(),
		permits: answers[2].(*redis.ZSliceCmd).Val(), leases: leases,
		seats: answers[4].(*redis.MapStringStringCmd).Val(), sessions: answers[5].(*redis.MapStringStringCmd).Val(),
		log: answers[6].(*redis.XMessageSliceCmd).Val(),
	}, of.Presence, nil
}

// follow checks the new entries of the log.
func (w *watch) follow(l *watched, g glance) {
	if g.seq < l.last {
		w.count(audit.SetBack, l.last-g.seq)
		w.tell("I7 room %s: the log ends at %d, it had been read up to %d", g.id, g.seq, l.last)
	}
	for _, entry := range g.log {
		var f wire.ServerFrame
		text, _ := entry.Values["f"].(string)
		if err := json.Unmarshal([]byte(text), &f); err != nil {
			w.tell("FRAME room %s entry %s: %v", g.id, entry.ID, err)
			continue
		}
		w.found(l.Saw(f))
		l.last = f.Seq
	}
	if g.seq > l.last {
		w.count(audit.SeqMissing, g.seq-l.last)
		w.tell("I7 room %s: the log ends at %d, its stream at %d", g.id, g.seq, l.last)
		l.last = g.seq
	}
}

// seats checks I1, I2, and that the keys agree with each other.
func (w *watch) seats(l *watched, g glance) {
	if n := len(g.leases) + len(g.permits); n > g.capacity {
		w.count(audit.OverCapacity, 1)
		w.tell("I1 room %s: %d leases and %d permits for %d seats", g.id, len(g.leases), len(g.permits), g.capacity)
	}
	if len(g.seats) != len(g.leases) || len(g.sessions) != len(g.leases) {
		w.tell("I2 room %s: %d seats, %d sessions, %d leases", g.id, len(g.seats), len(g.sessions), len(g.leases))
	}
	for user, session := range g.seats {
		if owner, _, _ := strings.Cut(g.sessions[session], "\n"); owner != user {
			w.tell("I2 room %s: %s sits in session %s, which is %q's", g.id, user, session, owner)
		}
		if slices.ContainsFunc(g.permits, func(z redis.Z) bool { return z.Member == user }) {
			w.tell("I2 room %s: %s has a seat and a reserved one", g.id, user)
		}
	}
}

// late checks that permits, leases and the seats of killed gateways do not stay too long, once
// Redis has been there for a while.
func (w *watch) late(l *watched, g glance) {
	w.mu.Lock()
	well := w.away.Add(recovery)
	killed := maps.Clone(w.killed)
	w.mu.Unlock()
	for _, z := range slices.Concat(g.permits, g.leases) {
		ends := time.UnixMilli(int64(z.Score))
		if over := g.now.Sub(later(ends, well)); over > lateBy {
			w.tell("I8 room %s: the seat of %v should be free since %v", g.id, z.Member, g.now.Sub(ends))
		}
	}
	for session, value := range g.sessions {
		first, ok := l.seen[session]
		if !ok {
			first = g.now
			l.seen[session] = first
		}
		gateway := strings.SplitN(value, "\n", 3)[1]
		died, ok := killed[gateway]
		if ok && first.Before(died) && well.Before(died) && g.now.Sub(died) > freedWithin {
			w.tell("I8 room %s: session %s has its seat %v after %s was killed", g.id, session, g.now.Sub(died), gateway)
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
