package sim

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

const (
	// reaperSlack is how long something may stay in Redis after its deadline: the 17 s of I8
	// minus the lease.
	reaperSlack = 2 * time.Second
	// recovery is how long a reaper may need until it works again after an outage: it gives
	// up connections that hang (after 3 s) and its round (after 5 s).
	recovery = 7 * time.Second
	// pollEvery bounds how late the end of something is noticed.
	pollEvery = 250 * time.Millisecond
)

// truth checks the state in Redis, which it reads directly from the embedded store and not
// by the project's scripts. It also keeps what it has seen before.
type truth struct {
	w *world

	mu         sync.Mutex
	sessions   map[string]*sessionTruth
	reaperBad  time.Time           // last time at which no reaper could work
	graves     map[*host]time.Time // when processes died
	longest    time.Duration       // longest time from a process' death until one of its seats was free
	seatsFreed int                 // of dead processes
}

// sessionTruth is what is known of one session's lease.
type sessionTruth struct {
	room, user string
	gateway    string
	until      time.Time // the latest end of the lease that was seen
	gone       time.Time // when the session was first seen without a lease; zero while it has one
	left       bool      // its user was told that the seat has been given up
}

func newTruth(w *world) *truth {
	return &truth{w: w, sessions: make(map[string]*sessionTruth), graves: make(map[*host]time.Time), reaperBad: time.Now()}
}

func (t *truth) buried(h *host) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.graves[h] = time.Now()
}

// gaveUp notes that a session's user was told that it has left.
func (t *truth) gaveUp(session string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.sessions[session]; s != nil {
		s.left = true
	}
}

func millis(score float64) time.Time { return time.UnixMilli(int64(score)) }

// leaseEnd returns when a session's lease ends, by what Redis holds now, and true; or, if it
// holds no lease of the session, by what was seen last, and false.
func (t *truth) leaseEnd(roomID, session string) (until time.Time, held bool) {
	score, err := t.w.redis.DB(0).ZScore(t.w.layout.Keys(roomID).Leases(), roomlog.Lease(roomID, session))
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sessions[session]
	if err == nil && score > 0 { // 0 if the session is not in the set
		until = millis(score)
		if s == nil {
			t.sessions[session] = &sessionTruth{room: roomID, until: until}
		} else if until.After(s.until) {
			s.until = until
		}
		return until, true
	}
	if s == nil {
		return time.Time{}, false
	}
	return s.until, false
}

// end returns the latest end of a session's lease that was seen.
func (t *truth) end(session string) (time.Time, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.sessions[session]; s != nil {
		return s.until, true
	}
	return time.Time{}, false
}

// roomState is the content of one room's keys.
type roomState struct {
	id                     string
	keys                   roomlog.Keys
	hash                   map[string]string
	permits, leases        map[string]float64
	tokens, seats, session map[string]string
}

// check checks everything in Redis. The caller makes sure that nothing else runs meanwhile.
func (t *truth) check() {
	db := t.w.redis.DB(0)
	ids := make(map[string]bool)
	for _, key := range db.Keys() {
		id, ok := roomOfKey(key)
		if !ok {
			continue
		}
		ids[id] = true
		if db.TTL(key) <= 0 {
			t.w.tell("expiry", "%s has none", key)
		}
	}
	t.reaperBad = t.lastBad()
	seen := make(map[string]bool)
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		r := t.read(id)
		if r.hash == nil {
			t.orphans(id)
			continue
		}
		t.counts(r)
		t.reason(r)
		t.due(r)
		for session, score := range r.leases {
			seen[session] = true
			t.holds(r, session, millis(score))
		}
	}
	t.strays(ids)
	t.ended(seen)
}

// strays finds leases of rooms that do not exist, and sets of leases that never expire.
func (t *truth) strays(ids map[string]bool) {
	for p := range t.w.layout.Partitions {
		if key := roomlog.LeasesKey(p); t.w.redis.DB(0).Exists(key) && t.w.redis.DB(0).TTL(key) <= 0 {
			t.w.tell("expiry", "%s has none", key)
		}
		for name := range t.set(roomlog.LeasesKey(p)) {
			if id, _, _ := strings.Cut(name, " "); !ids[id] {
				t.w.tell("orphan", "lease %q is there, and no room", name)
			}
		}
	}
}

func roomOfKey(key string) (string, bool) {
	_, rest, ok := strings.Cut(key, "}:r:")
	if !ok {
		return "", false
	}
	id, _, _ := strings.Cut(rest, ":")
	return id, true
}

// orphans finds keys of a room that does not exist.
func (t *truth) orphans(id string) {
	db := t.w.redis.DB(0)
	for _, key := range db.Keys() {
		if of, ok := roomOfKey(key); !ok || of != id {
			continue
		}
		t.w.tell("orphan", "%s is there, and no room %s", key, id)
	}
}

func (t *truth) set(key string) map[string]float64 {
	m, _ := t.w.redis.DB(0).SortedSet(key) // the store's own map
	t.w.redis.Lock()
	defer t.w.redis.Unlock()
	return maps.Clone(m)
}

func (t *truth) read(id string) roomState {
	db := t.w.redis.DB(0)
	hash := func(key string) map[string]string {
		fields, err := db.HKeys(key)
		if err != nil {
			return nil
		}
		m := make(map[string]string, len(fields))
		for _, f := range fields {
			m[f] = db.HGet(key, f)
		}
		return m
	}
	k := t.w.layout.Keys(id)
	leases := make(map[string]float64) // of this room, by session
	for name, ends := range t.set(k.Leases()) {
		if session, ok := strings.CutPrefix(name, roomlog.Lease(id, "")); ok {
			leases[session] = ends
		}
	}
	return roomState{
		id: id, keys: k, hash: hash(k.Room()), permits: t.set(k.Permits()), leases: leases,
		tokens: hash(k.Tokens()), seats: hash(k.Seats()), session: hash(k.Sessions()),
	}
}

// counts checks I1 and I2, and that the keys agree with each other.
func (t *truth) counts(r roomState) {
	if shape := t.w.shape(r.id); len(r.leases)+len(r.permits) > shape.Capacity {
		t.w.tell("I1", "room %s of %d seats has %d leases and %d permits", r.id, shape.Capacity, len(r.leases), len(r.permits))
	}
	if len(r.seats) != len(r.session) || len(r.seats) != len(r.leases) {
		t.w.tell("I2", "room %s has %d seats, %d sessions, %d leases", r.id, len(r.seats), len(r.session), len(r.leases))
	}
	for user, session := range r.seats {
		if _, ok := r.leases[session]; !ok || !strings.HasPrefix(r.session[session], user+"\n") {
			t.w.tell("I2", "room %s: %s sits in session %s, which says %q", r.id, user, session, r.session[session])
		}
		if _, ok := r.permits[user]; ok {
			t.w.tell("I2", "room %s: %s has a seat and a reserved one", r.id, user)
		}
	}
	now := time.Now()
	for user, score := range r.permits {
		token := r.tokens[user]
		alive := token != "" && t.w.redis.DB(0).Exists(r.keys.Permit(token))
		if !alive && millis(score).After(now.Add(time.Millisecond)) {
			t.w.tell("permit", "room %s: the seat of %s is reserved by no permit", r.id, user)
		}
	}
}

// reason checks that nothing in the room stays after its time, and that an empty room has a
// reason to exist.
func (t *truth) reason(r roomState) {
	for user, score := range r.permits {
		t.overdue(r.id, "permit of "+user, millis(score))
		if millis(score).After(time.Now().Add(wire.PermitTTL)) {
			t.w.tell("permit", "room %s: the permit of %s lives too long", r.id, user)
		}
	}
	for session, score := range r.leases {
		t.overdue(r.id, "lease of "+session, millis(score))
		if millis(score).After(time.Now().Add(wire.Lease)) {
			t.w.tell("lease", "room %s: the lease of %s lives too long", r.id, session)
		}
	}
	if len(r.permits)+len(r.leases) > 0 {
		return
	}
	shape := t.w.shape(r.id)
	ms := func(field string) time.Time { return time.UnixMilli(number(r.hash[field])) }
	switch {
	case r.hash["entered"] == "":
		t.overdue(r.id, "room that nobody entered", ms("created").Add(shape.Empty))
	case r.hash["vacant"] == "":
		t.w.tell("I5", "room %s is empty, was entered, and does not know since when", r.id)
	default:
		t.overdue(r.id, "empty room", ms("vacant").Add(shape.Departure))
	}
}

func number(s string) (n int64) {
	for _, c := range s {
		n = n*10 + int64(c-'0')
	}
	return n
}

// overdue reports something that should be gone by now, if a reaper was able to come.
func (t *truth) overdue(id, what string, ends time.Time) {
	since := ends
	if able := t.reaperBad.Add(recovery); able.After(since) {
		since = able
	}
	if over := time.Since(since); over > reaperSlack {
		t.w.tell("I8", "room %s: %s ended %v ago", id, what, time.Since(ends))
	}
}

// due checks that the reaper will come in time.
func (t *truth) due(r roomState) {
	key := roomlog.DueKey(t.w.layout.Partition(r.id))
	visit, err := t.w.redis.DB(0).ZScore(key, r.id)
	if err != nil || visit == 0 {
		t.w.tell("due", "nobody will visit room %s", r.id)
		return
	}
	if at := millis(visit); at.After(time.Now().Add(wire.HistoryAge)) {
		t.w.tell("due", "room %s is not visited before %v", r.id, at)
	}
	for who, score := range r.permits {
		if visit > score {
			t.w.tell("due", "room %s: %s ends at %.0f, the visit is at %.0f", r.id, who, score, visit)
		}
	}
}

// holds records what is known of a session that holds a lease.
func (t *truth) holds(r roomState, session string, until time.Time) {
	value := strings.SplitN(r.session[session], "\n", 3)
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sessions[session]
	if s == nil {
		s = &sessionTruth{room: r.id}
		t.sessions[session] = s
	}
	if len(value) == 3 {
		s.user, s.gateway = value[0], value[1]
	}
	if until.After(s.until) {
		s.until = until
	}
	if s.left {
		t.w.tell("leave", "room %s: session %s of %s has a seat after it left", r.id, session, s.user)
	}
	if !s.gone.IsZero() {
		t.w.tell("I4", "room %s: session %s of %s has a seat again", r.id, session, s.user)
		s.gone = time.Time{}
	}
}

// ended notes which sessions hold no lease any more, and how long the seats of dead
// processes stayed taken.
func (t *truth) ended(seen map[string]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for id, s := range t.sessions {
		if seen[id] || !s.gone.IsZero() {
			continue
		}
		s.gone = now
		for h, died := range t.graves {
			// Not counted: a lease that a renewal, on its way when the gateway died, renewed
			// afterwards, and any lease if at some time since no reaper could work.
			if h.name != s.gateway || s.until.After(died.Add(wire.Lease)) || t.reaperBad.After(died) {
				continue
			}
			t.seatsFreed++
			t.longest = max(t.longest, now.Sub(died))
			if now.Sub(died) > wire.Lease+reaperSlack+pollEvery {
				t.w.tell("I8", "the seat of session %s was free %v after its gateway died", id, now.Sub(died))
			}
		}
	}
}

// lastBad returns the last time at which no reaper could work: now, if none can.
func (t *truth) lastBad() time.Time {
	w := t.w
	w.mu.Lock()
	services := slices.Clone(w.rooms)
	w.mu.Unlock()
	w.net.mu.Lock()
	defer w.net.mu.Unlock()
	for _, s := range services {
		h := s.host
		if !h.dead && h.paused == 0 && w.store.paused == 0 && w.store.refuses == 0 && w.net.blocked[[2]*host{h, w.store}] == 0 {
			return t.reaperBad
		}
	}
	return time.Now()
}
