package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/services/audit"
)

// small configures a small storm, which ends once it has covered enough and enough agrees.
func small(enough func(Report) bool, targets ...string) Config {
	return Config{
		Targets: targets, Users: 16, Rooms: 2, Capacity: 4, Duration: 3 * time.Minute, MessageRate: 3, Seed: 1,
		Enough: func(r Report) bool {
			return r.Admitted > 40 && r.Takeovers > 3 && r.Rejoins > 3 && r.Echoed > 40 && (enough == nil || enough(r))
		},
	}
}

func kinds(kinds ...audit.Kind) func(Report) bool {
	return func(r Report) bool {
		return !slices.ContainsFunc(kinds, func(k audit.Kind) bool { return r.Kinds[k] == 0 })
	}
}

// checked logs the report of a storm, and fails the test if there was an error.
func checked(t *testing.T, report Report, err error) {
	t.Helper()
	var text bytes.Buffer
	_ = report.WriteText(&text)
	t.Log("\n" + text.String())
	if err != nil {
		t.Fatal(err)
	}
}

func TestARightSystemHasNoViolation(t *testing.T) {
	t.Parallel()
	cfg := small(nil, system(t)...)
	cfg.Users, cfg.Rooms = 40, 6
	report, err := Check(context.Background(), cfg)
	checked(t, report, err)
	if report.Violations != 0 || report.OverCapacity != 0 || report.SeatsNotBack != 0 {
		t.Errorf("%d violations", report.Violations)
	}
	for name, n := range map[string]int64{
		"permits": report.Permits, "takeovers": report.Takeovers, "rejoins": report.Rejoins, "refused joins": report.Refused["ROOM_FULL"],
		"echoes": report.Echoed, "deliveries": report.Deliveries, "entries": report.Entries, "samples": report.Samples,
	} {
		if n == 0 {
			t.Errorf("a storm without %s tests little", name)
		}
	}
	if d := time.Duration(report.Duration); d <= 0 || d >= cfg.Duration {
		t.Errorf("the storm lasted for %v", d)
	}
	if back := time.Duration(report.BackAfterBreak); back == 0 || back > seatBack {
		t.Errorf("seats took up to %v to come back", back)
	}
}

// wrongFrames breaks the frames that a connection receives, in many ways in turn.
func wrongFrames() *standIn {
	said := []byte("message")
	return &standIn{down: func() func(f map[string]any, raw []byte) [][]byte {
		messages := 0
		return func(f map[string]any, raw []byte) [][]byte {
			switch f["type"] {
			case "JOINED":
				f["recovered"] = true
				return [][]byte{encode(f)}
			case "MEMBER_JOINED":
				f["occupied"] = 1
				return [][]byte{encode(f)}
			case "MESSAGE":
				messages++
			default:
				return [][]byte{raw}
			}
			switch messages % 8 {
			case 1:
				return [][]byte{raw, raw}
			case 2: // the message is lost
				return nil
			case 3:
				return [][]byte{bytes.Replace(raw, said, []byte("massage"), 1)}
			case 4:
				return [][]byte{[]byte(`{"type":"GAP","from":1,"to":1}`), raw}
			case 5:
				again := maps.Clone(f)
				again["seq"] = f["seq"].(float64) + 1
				return [][]byte{raw, encode(again)}
			case 6:
				return [][]byte{raw, []byte(`{"type":"NEWS"}`)}
			}
			return [][]byte{raw}
		}
	}}
}

// wrongCounts reports alternately too many and too few seats.
func wrongCounts() *standIn {
	var asked atomic.Int64
	return &standIn{answer: func(_ string, room map[string]any) {
		room["occupied"] = 0
		room["reserved"] = asked.Add(1) % 2 * 5
	}}
}

// oneMore lets five users into rooms for four, and hides that in its answers. It also
// reports a taken seat in rooms that are gone.
func oneMore() *standIn {
	hide := func(f map[string]any) {
		f["capacity"] = f["capacity"].(float64) - 1
		f["occupied"] = min(f["occupied"].(float64), 4)
		if members, ok := f["members"].([]any); ok && len(members) > 4 {
			f["members"] = members[len(members)-4:]
		}
	}
	return &standIn{
		ghosts: true,
		create: func(room map[string]any) { room["capacity"] = room["capacity"].(float64) + 1 },
		answer: func(_ string, room map[string]any) { hide(room); room["reserved"] = 0 },
		down: func() func(map[string]any, []byte) [][]byte {
			return func(f map[string]any, raw []byte) [][]byte {
				if f["type"] != "JOINED" {
					return [][]byte{raw}
				}
				hide(f)
				return [][]byte{encode(f)}
			}
		},
	}
}

// wrongSeats lets another user in with a permit that was used, and keeps sessions open
// whose seats were taken over.
func wrongSeats() *standIn {
	var mu sync.Mutex
	used := make(map[string]bool)
	return &standIn{deaf: true, query: func(q url.Values) {
		mu.Lock()
		defer mu.Unlock()
		permit := q.Get("permit")
		if used[permit] {
			q.Del("permit")
			room, _, _ := strings.Cut(permit, ".")
			q.Set("roomId", room)
		}
		used[permit] = permit != ""
	}}
}

func TestEachBreakageOfASystemIsReported(t *testing.T) {
	t.Parallel()
	target := system(t)[0]
	cases := []struct {
		name    string
		standIn *standIn
		during  []audit.Kind // the storm goes on until they are found
		want    []audit.Kind // in the end
		seats   int          // of each room, if it needs more than the usual few
	}{
		{"frames", wrongFrames(), []audit.Kind{
			audit.SeqDouble, audit.SeqMissing, audit.SeqConflict, audit.FalseGap, audit.FalseRecovered, audit.WrongFrame,
		}, []audit.Kind{audit.Miscounted, audit.MessageTwice}, 0},
		{"capacity", oneMore(), nil, []audit.Kind{audit.OverCapacity, audit.SeatKept}, 0},
		{"counts", wrongCounts(), []audit.Kind{audit.OverCapacity}, []audit.Kind{audit.SeatVanished}, 0},
		// A join with a used permit becomes that of another user, who needs a free seat.
		{"seats", wrongSeats(), []audit.Kind{audit.PermitReused}, []audit.Kind{audit.ReplacedLives}, 40},
	}
	reports, errs := make([]Report, len(cases)), make([]error, len(cases))
	var storms sync.WaitGroup
	for i, c := range cases { // at the same time: they mostly wait for leases to end
		url := c.standIn.start(t, target)
		cfg := small(kinds(c.during...), url)
		cfg.Capacity = max(cfg.Capacity, c.seats)
		storms.Go(func() { reports[i], errs[i] = Check(context.Background(), cfg) })
	}
	storms.Wait()
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			report := reports[i]
			checked(t, report, errs[i])
			for _, want := range append(c.during, c.want...) {
				if report.Kinds[want] == 0 {
					t.Errorf("%q is not among %v", want, slices.Collect(maps.Keys(report.Kinds)))
				}
			}
			if len(report.First) == 0 || report.Violations < int64(len(report.First)) {
				t.Errorf("%d violations, %d in words", report.Violations, len(report.First))
			}
		})
	}
}

func TestALeaveThatFreesNothingIsReported(t *testing.T) {
	t.Parallel()
	swallow := &standIn{up: func(raw []byte) bool { return bytes.Contains(raw, []byte(`"LEAVE"`)) }}
	ctx := context.Background()
	s, err := newStorm(Config{Targets: []string{swallow.start(t, system(t)[0])}, Rooms: 1, Capacity: 4})
	if err != nil {
		t.Fatal(err)
	}
	s.began, s.hard = time.Now(), ctx
	p := s.places[0]
	if err := s.crowd.prepare(ctx, 2); err != nil {
		t.Fatal(err)
	}
	if err := p.create(ctx, s.crowd.clients[0]); err != nil {
		t.Fatal(err)
	}
	for _, id := range s.crowd.users {
		u := &user{storm: s, id: id}
		if _, err := u.open(p, client.JoinOptions{Identity: id.Identity}, u.member(p)); err != nil {
			t.Fatal(err)
		}
	}
	s.settle(ctx)
	s.end()
	if report := s.tally.report(s.cfg); report.Kinds[audit.SeatKept] != 1 {
		t.Errorf("%+v", report)
	}
}

func TestATargetOutOfReachIsUntested(t *testing.T) {
	t.Parallel()
	cfg := Config{Targets: []string{"http://127.0.0.1:1"}, Users: 3, Rooms: 1, Capacity: 1, Duration: time.Second}
	if _, err := Check(context.Background(), cfg); !errors.Is(err, ErrUntested) {
		t.Errorf("%v", err)
	}
}

func TestATargetThatIsGoneAtTheEndIsUntested(t *testing.T) {
	t.Parallel()
	target, _ := url.Parse(system(t)[0])
	var gone atomic.Bool
	proxy := httputil.NewSingleHostReverseProxy(target)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if gone.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	cfg := Config{
		Targets: []string{server.URL}, Users: 1, Rooms: 1, Capacity: 1, Duration: time.Minute, Seed: 1,
		Enough: func(r Report) bool {
			gone.Store(r.Admitted > 0)
			return gone.Load()
		},
	}
	report, err := Check(context.Background(), cfg)
	if !errors.Is(err, ErrUntested) || report.Violations != 0 || report.RoomsUnsettled != 1 {
		t.Errorf("%v, %+v", err, report)
	}
}

func TestWrongSettingsAreRefused(t *testing.T) {
	good := Config{Targets: []string{"http://127.0.0.1:1"}, Users: 1, Rooms: 1, Capacity: 1, Duration: time.Second}
	for name, spoil := range map[string]func(*Config){
		"no target": func(c *Config) { c.Targets = nil }, "not a URL": func(c *Config) { c.Targets = []string{"ftp://x"} },
		"no users": func(c *Config) { c.Users = 0 }, "no rooms": func(c *Config) { c.Rooms = 0 }, "no seats": func(c *Config) { c.Capacity = 0 },
		"too short": func(c *Config) { c.Duration = 1 }, "backwards": func(c *Config) { c.MessageRate = -1 },
	} {
		cfg := good
		spoil(&cfg)
		if _, err := Check(context.Background(), cfg); err == nil || errors.Is(err, ErrUntested) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAReportIsReadableForPeopleAndMachines(t *testing.T) {
	tally := newTally()
	for range 30 {
		tally.found(audit.Violation{Kind: audit.OverCapacity, RoomID: "r", Count: 1, Detail: "too many"})
	}
	tally.failed(errors.New("wrapped"))
	tally.back(1234567*time.Microsecond, false)
	report := tally.report(Config{Targets: []string{"http://x"}, Rooms: 3, Capacity: 8})
	var text, data bytes.Buffer
	if report.WriteText(&text) != nil || report.WriteJSON(&data) != nil {
		t.Fatal("not written")
	}
	for _, want := range []string{"3 of 8 seats", "1 wrapped", "30: 30 over capacity; the first 20:", "I1 over capacity: room r: too many", "1.235s"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is not in\n%s", want, text.String())
		}
	}
	var back struct {
		BackAfterBreakSeconds float64
		FirstViolations       []audit.Violation
	}
	if err := json.Unmarshal(data.Bytes(), &back); err != nil || back.BackAfterBreakSeconds != 1.235 || len(back.FirstViolations) != 20 {
		t.Errorf("%v %+v", err, back)
	}
}
