package load

import (
	"context"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

const (
	samplePause = 20 * time.Millisecond // between two requests for a room's counts
	roomsAtOnce = 16                    // created at a time
	longSilence = 500 * time.Millisecond
	startOver   = 2 * time.Second // the starts of the users are spread over this time
)

// storm is one run of Check.
type storm struct {
	cfg    Config
	crowd  *crowd
	tally  *tally
	places []*place
	began  time.Time
	hard   context.Context // when it ends, everything is broken off
	young  bool            // every log entry stays younger than wire.HistoryAge

	mu       sync.Mutex // guards what follows
	heardAt  time.Duration
	silences []silence // of the service, in order

	tabs     sync.Map // *tab: open
	readers  sync.WaitGroup
	watchers sync.WaitGroup
}

// silence is a time in which no answer came about any room.
type silence struct{ until, length time.Duration }

func newStorm(cfg Config) (*storm, error) {
	crowd, err := newCrowd(cfg.Targets, cfg.Options)
	if err != nil {
		return nil, err
	}
	s := &storm{cfg: cfg, crowd: crowd, tally: newTally(), young: cfg.Duration < wire.HistoryAge-2*time.Minute}
	run := strings.ToLower(rand.Text()[:10])
	for i := range cfg.Rooms {
		s.places = append(s.places, newPlace(fmt.Sprintf("check-%s-%d", run, i), i, cfg.Capacity))
	}
	return s, nil
}

// clock is the time since the run began.
func (s *storm) clock() time.Duration { return time.Since(s.began) }

// run lets the users act until the duration is over, and waits until each has finished
// what it was doing.
func (s *storm) run(ctx context.Context) {
	s.began, s.hard = time.Now(), ctx
	atMost(roomsAtOnce, len(s.places), func(i int) {
		if err := s.places[i].create(ctx, s.crowd.clients[i%len(s.crowd.clients)]); err != nil {
			s.tally.failed(err)
		}
	})
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Duration)
	defer cancel()
	var busy sync.WaitGroup
	defer busy.Wait()
	busy.Go(func() { s.sample(ctx, cancel) })
	start := min(startOver, s.cfg.Duration/4)
	for i, id := range s.crowd.users {
		u := &user{storm: s, id: id, index: i, at: i, rng: mathrand.New(mathrand.NewPCG(s.cfg.Seed, uint64(i)))}
		busy.Go(func() {
			if sleep(ctx, start*time.Duration(i)/time.Duration(len(s.crowd.users))) {
				u.live(ctx)
			}
		})
	}
}

// sample asks for the counts of one room after another, and ends the storm when cfg.Enough
// says so.
func (s *storm) sample(ctx context.Context, end context.CancelFunc) {
	began := time.Now()
	defer func() {
		s.tally.add(func(r *Report) { r.Duration = Seconds(min(time.Since(began), s.cfg.Duration)) })
	}()
	s.listen()
	for i := 0; sleep(ctx, samplePause); i++ {
		_, _, _, _ = s.count(s.hard, s.places[i%len(s.places)], i)
		if s.cfg.Enough != nil && s.cfg.Enough(s.tally.report(s.cfg)) {
			end()
			return
		}
	}
}

// count asks target n for a room's counts.
func (s *storm) count(ctx context.Context, p *place, n int) (taken int, asked, heard time.Duration, err error) {
	taken, asked, heard, vs, err := p.counts(ctx, s.crowd.clients[n%len(s.crowd.clients)], s.clock)
	s.tally.found(vs...)
	if err != nil {
		s.tally.failed(err)
		return 0, asked, heard, err
	}
	s.tally.add(func(r *Report) { r.Samples++ })
	s.answered(heard)
	return taken, asked, heard, nil
}

// listen says that requests are made from now on: silence is measured from here.
func (s *storm) listen() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heardAt = s.clock()
}

// answered notes that the service answered, and how long it had been silent.
func (s *storm) answered(heard time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if length := heard - s.heardAt; length >= longSilence {
		s.silences = append(s.silences, silence{heard, length})
		s.tally.add(func(r *Report) { r.Silence = max(r.Silence, Seconds(length)) })
	}
	s.heardAt = max(s.heardAt, heard)
}

// backWithin returns how long a seat may stay taken whose socket broke at that time. A store
// that stood still carries out late the renewals that were sent before, so the longest
// silence since then is added.
func (s *storm) backWithin(broke time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var longest time.Duration
	for _, silent := range s.silences {
		if silent.until > broke {
			longest = max(longest, silent.length)
		}
	}
	return seatBack + longest
}

// end breaks the remaining connections, and waits for their readers.
func (s *storm) end() {
	s.watchers.Wait()
	s.tabs.Range(func(key, _ any) bool {
		t := key.(*tab)
		t.stop()
		t.session.Abort()
		return true
	})
	s.readers.Wait()
}

// judge looks for violations in what all users together observed.
func (s *storm) judge() {
	for _, p := range s.places {
		s.tally.found(p.judge()...)
		for _, l := range p.lives {
			s.tally.add(func(r *Report) { r.Entries += int64(l.Entries()) })
		}
	}
}
