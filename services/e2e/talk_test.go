package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/audit"
)

// talkOptions says who talks where, and how much.
type talkOptions struct {
	rooms, each int           // each is how many members a room has, and its capacity
	every       time.Duration // time between two messages of a member
	bases       []string      // base URLs; members start at different ones and go on to the next; none means HAProxy
}

// talk is rooms full of members who talk while something is done to the cluster. The frames
// of each connection are audited, the events of each member are checked to be the log, and
// in the end all is compared with the log in Redis.
type talk struct {
	*testing.T
	v       *venue
	o       talkOptions
	rooms   []*talkRoom
	talkers []*talker
	began   time.Time
	stop    context.CancelFunc // ends talking
	talking sync.WaitGroup
	reading sync.WaitGroup

	sent, delivered, returns, told atomic.Int64 // told: how often a GAP or "recovered: false" came

	mu       sync.Mutex // guards what follows
	kinds    map[audit.Kind]int64
	problems []string
}

// talkRoom puts together what all members of a room receive.
type talkRoom struct {
	id string

	mu    sync.Mutex // guards what follows
	audit *audit.Room
	left  int64 // number of MEMBER_LEFT
}

// startTalk fills the rooms and makes all members talk. finish must be called afterwards.
func startTalk(t *testing.T, v *venue, o talkOptions) *talk {
	t.Helper()
	k := &talk{T: t, v: v, o: o, kinds: make(map[audit.Kind]int64)}
	for range o.rooms {
		room := v.room(t, client.RoomSpec{Capacity: o.each})
		k.rooms = append(k.rooms, &talkRoom{id: room.RoomID, audit: audit.NewRoom(audit.Life{
			RoomID: room.RoomID, Epoch: room.Epoch, Capacity: o.each,
		})})
	}
	k.enterAll()
	ctx, stop := context.WithCancel(t.Context())
	k.began, k.stop = time.Now(), stop
	t.Cleanup(func() { stop(); k.talking.Wait() })
	for i, m := range k.talkers {
		m.hear(k.began)
		k.talking.Go(func() { k.speak(ctx, m, o.every*time.Duration(i)/time.Duration(len(k.talkers))) })
	}
	return k
}

const enterAtOnce = 16

func (k *talk) enterAll() {
	k.Helper()
	began := time.Now()
	k.talkers = make([]*talker, k.o.rooms*k.o.each)
	errs := make(chan error, enterAtOnce)
	var next atomic.Int64
	for range enterAtOnce {
		go func() {
			var err error
			for i := next.Add(1) - 1; err == nil && int(i) < len(k.talkers); i = next.Add(1) - 1 {
				k.talkers[i], err = k.enter(int(i))
			}
			errs <- err
		}()
	}
	for range enterAtOnce {
		if err := <-errs; err != nil {
			k.Fatal(err)
		}
	}
	k.Logf("%d members of %d rooms came in within %.1f s", len(k.talkers), len(k.rooms), time.Since(began).Seconds())
}

// enter makes member i join. Members of a room talk one after another.
func (k *talk) enter(i int) (*talker, error) {
	room := k.rooms[i%len(k.rooms)]
	m := &talker{talk: k, room: room, audit: audit.NewMember(room.id, true), waiting: make(map[string]time.Time)}
	o := client.MemberOptions{
		RoomID: room.id, Nickname: fmt.Sprintf("T%d", i), Buffer: 1024, Trace: m.trace,
		Jitter: func(limit time.Duration) time.Duration { return min(limit, time.Second) / 2 },
	}
	for n := range k.o.bases {
		o.BaseURLs = append(o.BaseURLs, k.o.bases[(i/len(k.rooms)+n)%len(k.o.bases)])
		m.base = o.BaseURLs[0]
	}
	ctx, cancel := context.WithTimeout(k.Context(), 3*soon)
	defer cancel()
	var err error
	if m.Member, err = k.v.Enter(ctx, o); err != nil {
		return nil, fmt.Errorf("member %d: %w", i, err)
	}
	k.Cleanup(m.Abort)
	k.reading.Go(m.read)
	return m, nil
}

// speak posts until ctx ends, the first time after a delay.
func (k *talk) speak(ctx context.Context, m *talker, delay time.Duration) {
	tick := time.NewTimer(delay)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		tick.Reset(k.o.every)
		if err := m.post(n); err != nil {
			k.problem("a member could not talk: %v", err)
			return
		}
		k.sent.Add(1)
	}
}

// settled waits until each of those members (nil means all) has received something that was
// sent after the call, and also got back a message of its own. It returns how long that took.
func (k *talk) settled(within time.Duration, those func(*talker) bool) time.Duration {
	k.Helper()
	from, seqs := time.Now(), make(map[*talkRoom]int64)
	for _, r := range k.rooms {
		seq, err := k.v.redis.HGet(k.Context(), k.v.Layout().Keys(r.id).Room(), "seq").Int64()
		must(k.T, err)
		seqs[r] = seq
	}
	return eventually(k.T, within, "all hear each other", func() bool {
		return !slices.ContainsFunc(k.talkers, func(m *talker) bool {
			return (those == nil || those(m)) && !m.settled(from, seqs[m.room])
		})
	})
}

// finish ends the talk: it waits until every message has come back to its sender and
// every member has all of the log.
func (k *talk) finish(within time.Duration) {
	k.Helper()
	k.stop()
	k.talking.Wait()
	eventually(k.T, within, "every message has come back to its sender", func() bool {
		return !slices.ContainsFunc(k.talkers, (*talker).waits)
	})
	for _, r := range k.rooms {
		log, err := roomlog.Read(k.Context(), k.v.redis, k.v.Layout(), r.id, 1, 0, 0)
		must(k.T, err)
		eventually(k.T, within, "every member has all of the log", func() bool {
			return !slices.ContainsFunc(k.talkers, func(m *talker) bool { return m.room == r && m.reached() < log.Last })
		})
		k.compare(r, log)
	}
	for _, m := range k.talkers {
		m.Abort()
	}
	k.reading.Wait()
}

// compare checks what members received against the log.
func (k *talk) compare(r *talkRoom, log roomlog.Range) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range log.Entries {
		var f wire.ServerFrame
		must(k.T, json.Unmarshal(e.Frame, &f))
		k.found(r.audit.Saw(f))
	}
	k.found(r.audit.Audit())
}

// seats returns how many seats are taken, according to Redis.
func (k *talk) seats() (occupied int) {
	k.Helper()
	for _, r := range k.rooms {
		_, n := k.v.occupancy(k.T, r.id)
		occupied += int(n)
	}
	return occupied
}

// gone returns how many MEMBER_LEFT came.
func (k *talk) gone() (left int64) {
	for _, r := range k.rooms {
		r.mu.Lock()
		left += r.left
		r.mu.Unlock()
	}
	return left
}

func (k *talk) problem(format string, args ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.problems = append(k.problems, fmt.Sprintf(format, args...))
}

func (k *talk) found(vs []audit.Violation) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, v := range vs {
		k.kinds[v.Kind] += v.Count
		k.problems = append(k.problems, v.String())
	}
}

// missing and doubled return what the auditors counted.
func (k *talk) missing() int64 { return k.kinds[audit.SeqMissing] }

func (k *talk) doubled() int64 {
	return k.kinds[audit.SeqDouble] + k.kinds[audit.MessageTwice] + k.kinds[audit.SeqConflict]
}

// judge fails the test for every violation, and if members were told that something is missing
// although nothing is.
func (k *talk) judge() {
	k.Helper()
	for i, problem := range k.problems {
		if i == 20 {
			k.Errorf("and %d more", len(k.problems)-i)
			break
		}
		k.Error(problem)
	}
	if n := k.told.Load(); n > 0 {
		k.Errorf("members were told %d times that something is missing, and nothing is", n)
	}
	if want := k.sent.Load() * int64(k.o.each); k.delivered.Load() != want {
		k.Errorf("%d deliveries of %d", k.delivered.Load(), want)
	}
	if n, want := k.seats(), k.o.rooms*k.o.each; n != want {
		k.Errorf("%d seats of %d are taken in the end", n, want)
	}
	if n := k.gone(); n > 0 {
		k.Errorf("%d MEMBER_LEFT, and nobody left", n)
	}
}

// table logs the results of the talk, and the given rows.
func (k *talk) table(title string, rows ...[2]any) {
	k.Helper()
	var text strings.Builder
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	p50, p99, most := k.silences()
	all := [][2]any{
		{title, ""},
		{"members", fmt.Sprintf("%d of %d rooms, for %.0f s", len(k.talkers), len(k.rooms), time.Since(k.began).Seconds())},
		{"messages sent", k.sent.Load()},
		{"messages delivered", fmt.Sprintf("%d of %d", k.delivered.Load(), k.sent.Load()*int64(k.o.each))},
		{"missing", k.missing()},
		{"doubled", k.doubled()},
		{"told of as missing (GAP, recovered false)", k.told.Load()},
		{"seats lost", max(k.gone(), int64(k.o.rooms*k.o.each-k.seats()))},
		{"returns of members", k.returns.Load()},
		{"longest silence that a member felt", fmt.Sprintf("p50 %.2f s, p99 %.2f s, most %.2f s; a calm room's is %.2f s",
			p50.Seconds(), p99.Seconds(), most.Seconds(), (k.o.every / time.Duration(k.o.each)).Seconds())},
	}
	for _, row := range append(all, rows...) {
		_, _ = fmt.Fprintf(t, "%v\t%v\n", row[0], row[1])
	}
	for _, kind := range slices.Sorted(maps.Keys(k.kinds)) {
		_, _ = fmt.Fprintf(t, "violation: %s\t%d\n", kind, k.kinds[kind])
	}
	_ = t.Flush()
	k.Log("\n" + text.String())
}

func (k *talk) silences() (p50, p99, most time.Duration) {
	var all []time.Duration
	for _, m := range k.talkers {
		all = append(all, m.silence())
	}
	slices.Sort(all)
	return all[len(all)/2], all[len(all)*99/100], all[len(all)-1]
}
