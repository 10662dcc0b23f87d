package audit

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

var epochStart = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(seq int64) time.Time { return epochStart.Add(time.Duration(seq) * time.Second) }

func join(seq int64, user string, occupied int) wire.ServerFrame {
	return wire.ServerFrame{Type: wire.TypeMemberJoined, Seq: seq, Time: at(seq), Member: &wire.Member{UserID: user}, Occupied: occupied}
}

func left(seq int64, user string, occupied int) wire.ServerFrame {
	return wire.ServerFrame{Type: wire.TypeMemberLeft, Seq: seq, Time: at(seq), Member: &wire.Member{UserID: user}, Reason: wire.ReasonLeft, Occupied: occupied}
}

func message(seq int64, user, id string) wire.ServerFrame {
	return wire.ServerFrame{
		Type: wire.TypeMessage, Seq: seq, Time: at(seq), From: &wire.Member{UserID: user}, ID: id, Body: json.RawMessage(`"hello"`),
	}
}

func joined(seq int64, capacity int, members ...string) wire.ServerFrame {
	f := wire.ServerFrame{
		Type: wire.TypeJoined, Seq: seq, RoomID: "r", Epoch: "e", UserID: members[len(members)-1], SessionID: "s",
		Capacity: capacity, Occupied: len(members),
	}
	for _, m := range members {
		f.Members = append(f.Members, wire.Member{UserID: m})
	}
	return f
}

func with(f wire.ServerFrame, change func(*wire.ServerFrame)) wire.ServerFrame {
	change(&f)
	return f
}

// kinds lists the kinds of violations, sorted.
func kinds(vs []Violation) string {
	var names []string
	for _, v := range vs {
		names = append(names, string(v.Kind))
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func auditRoom(life Life, frames ...wire.ServerFrame) []Violation {
	life.RoomID, life.Epoch = "r", "e"
	room := NewRoom(life)
	var vs []Violation
	for _, f := range frames {
		vs = append(vs, room.Saw(f)...)
	}
	return append(vs, room.Audit()...)
}

func TestEachBreakageOfALogIsFound(t *testing.T) {
	full, partial, counted := Life{Capacity: 2, Complete: true}, Life{Capacity: 2}, Life{Capacity: 2, Counted: true}
	for _, c := range []struct {
		name   string
		life   Life
		frames []wire.ServerFrame
		want   string
	}{
		{"nothing", full, nil, ""},
		{"a whole life", full, []wire.ServerFrame{join(1, "a", 1), join(2, "b", 2), message(3, "a", "1"), left(4, "a", 1), join(5, "c", 2), left(6, "c", 1), left(7, "b", 0)}, ""},
		{"one seat too many", full, []wire.ServerFrame{join(1, "a", 1), join(2, "b", 2), join(3, "c", 3)}, "over capacity"},
		{"one too many, not told", full, []wire.ServerFrame{join(1, "a", 1), join(2, "b", 2), join(3, "c", 2)}, "occupied is wrong, over capacity"},
		{"too many told behind a hole", partial, []wire.ServerFrame{join(7, "c", 3)}, "over capacity"},
		{"occupied is wrong", full, []wire.ServerFrame{join(1, "a", 1), join(2, "b", 1)}, "occupied is wrong"},
		{"joined twice", full, []wire.ServerFrame{join(1, "a", 1), join(2, "a", 1)}, "joined twice"},
		{"joined twice, behind a hole", partial, []wire.ServerFrame{message(8, "a", "1"), join(9, "a", 1)}, "joined twice"},
		{"left without being there", full, []wire.ServerFrame{join(1, "a", 1), left(2, "b", 1)}, "left without being there"},
		{"left twice", partial, []wire.ServerFrame{left(8, "a", 1), left(9, "a", 1)}, "left without being there"},
		{"who left may not have been seen", partial, []wire.ServerFrame{join(1, "a", 1), left(9, "b", 0)}, ""},
		{"message of a stranger", full, []wire.ServerFrame{join(1, "a", 1), message(2, "b", "")}, "message of who holds no seat"},
		{"message of who left", partial, []wire.ServerFrame{left(8, "a", 0), message(9, "a", "")}, "message of who holds no seat"},
		{"message of the application", full, []wire.ServerFrame{message(1, wire.SystemUser, "")}, ""},
		{"a hole", full, []wire.ServerFrame{join(1, "a", 1), message(4, "a", "")}, "seq missing"},
		{"a hole where not all was seen", partial, []wire.ServerFrame{join(1, "a", 1), message(4, "a", "")}, ""},
		{"the same seq with another message", partial, []wire.ServerFrame{message(4, "a", "1"), message(4, "a", "2")}, "one seq, two entries"},
		{"the same seq with another body", partial, []wire.ServerFrame{message(4, "a", "1"), with(message(4, "a", "1"), func(f *wire.ServerFrame) { f.Body = json.RawMessage(`1`) })}, "one seq, two entries"},
		{"the same seq at another time", partial, []wire.ServerFrame{message(4, "a", "1"), with(message(4, "a", "1"), func(f *wire.ServerFrame) { f.Time = at(5) })}, "one seq, two entries"},
		{"seen by two", partial, []wire.ServerFrame{message(4, "a", "1"), message(4, "a", "1")}, ""},
		{"backwards in time", partial, []wire.ServerFrame{message(4, "a", ""), with(message(5, "a", ""), func(f *wire.ServerFrame) { f.Time = at(3) })}, "time goes backwards"},
		{"a message delivered twice", partial, []wire.ServerFrame{message(4, "a", "1"), message(5, "a", "1")}, "message delivered twice"},
		{"the id of another user", partial, []wire.ServerFrame{message(4, "a", "1"), message(5, "b", "1")}, ""},
		{"an id used again two minutes later", partial, []wire.ServerFrame{message(4, "a", "1"), message(124, "a", "1")}, ""},
		{"a true roster", full, []wire.ServerFrame{join(1, "a", 1), join(2, "b", 2), joined(2, 2, "a", "b")}, ""},
		{"someone missing in a roster", full, []wire.ServerFrame{join(1, "a", 1), join(2, "b", 2), joined(2, 2, "b")}, "members are wrong, occupied is wrong"},
		{"someone else in a roster", full, []wire.ServerFrame{join(1, "a", 1), join(2, "b", 2), joined(2, 2, "c", "b")}, "members are wrong"},
		{"a roster too early", full, []wire.ServerFrame{join(1, "a", 1), join(2, "b", 2), joined(1, 2, "a", "b")}, "members are wrong, occupied is wrong"},
		{"a roster behind a hole tells all", partial, []wire.ServerFrame{joined(5, 2, "a", "b"), message(6, "c", "")}, "message of who holds no seat"},
		{"two rosters at one seq", partial, []wire.ServerFrame{joined(5, 2, "a", "b"), joined(5, 2, "c", "b")}, "members are wrong"},
		{"a roster over capacity", partial, []wire.ServerFrame{joined(5, 2, "a", "b", "c")}, "over capacity"},
		{"a roster with a user twice", partial, []wire.ServerFrame{joined(5, 2, "a", "a")}, "joined twice"},
		{"a roster without oneself", partial, []wire.ServerFrame{with(joined(5, 2, "a"), func(f *wire.ServerFrame) { f.UserID = "b" })}, "members are wrong"},
		{"a roster and occupied that differ", partial, []wire.ServerFrame{with(joined(5, 2, "a"), func(f *wire.ServerFrame) { f.Occupied = 2 })}, "occupied is wrong"},
		{"another capacity", partial, []wire.ServerFrame{joined(5, 3, "a")}, "frame that breaks the contract"},
		{"no body", partial, []wire.ServerFrame{with(message(5, "a", ""), func(f *wire.ServerFrame) { f.Body = nil })}, "frame that breaks the contract"},
		{"no seq", partial, []wire.ServerFrame{message(0, "a", "")}, "frame that breaks the contract"},
		{"no reason", partial, []wire.ServerFrame{with(left(5, "a", 0), func(f *wire.ServerFrame) { f.Reason = "" })}, "frame that breaks the contract"},
		{"count: joins stay out of the log", counted, []wire.ServerFrame{join(1, "a", 1)}, "frame that breaks the contract"},
		{"count: messages of anyone", counted, []wire.ServerFrame{message(1, "a", ""), {Type: wire.TypeOccupancy, Occupied: 2}}, ""},
		{"count: too many", counted, []wire.ServerFrame{{Type: wire.TypeOccupancy, Occupied: 3}}, "over capacity"},
		{"count: a roster", counted, []wire.ServerFrame{joined(1, 2, "a")}, "frame that breaks the contract"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if vs := auditRoom(c.life, c.frames...); kinds(vs) != c.want {
				t.Errorf("found %v, want %q", vs, c.want)
			}
		})
	}
}

func TestARevokedMessageInTheLogIsFound(t *testing.T) {
	room := NewRoom(Life{RoomID: "r", Epoch: "e", Capacity: 2})
	room.Saw(message(3, "a", "late"))
	room.Revoke("late", "sent by a replaced session")
	if got := kinds(room.Audit()); got != string(StrangerSpoke) {
		t.Errorf("found %q", got)
	}
}

func TestAViolationIsOneLineWithRuleRoomEpochAndSeq(t *testing.T) {
	v := auditRoom(Life{Capacity: 1}, joined(5, 1, "a", "b"))[0]
	want := "I1 over capacity: room r epoch e seq 5: JOINED tells 2 occupied of 1"
	if v.String() != want {
		t.Errorf("%q, want %q", v, want)
	}
	for kind, rule := range rules {
		if rule == "" || kind == "" {
			t.Errorf("kind %q has rule %q", kind, rule)
		}
	}
}

// life makes a correct log, with a roster at each seq.
func life(rng *rand.Rand, capacity, n int) (log, rosters []wire.ServerFrame) {
	var members []string
	for seq := int64(1); len(log) < n; seq++ {
		user := fmt.Sprint("u", rng.IntN(3*capacity))
		i := slices.Index(members, user)
		switch {
		case i < 0 && len(members) < capacity:
			members = append(members, user)
			log = append(log, join(seq, user, len(members)))
		case i >= 0 && rng.IntN(3) == 0:
			members = slices.Delete(members, i, i+1)
			log = append(log, left(seq, user, len(members)))
		case i >= 0:
			log = append(log, message(seq, user, fmt.Sprint(seq)))
		default:
			seq--
			continue
		}
		if len(members) > 0 {
			rosters = append(rosters, joined(seq, capacity, members...))
		}
	}
	return log, rosters
}

func TestAnyPartOfARightLogHasNoViolation(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		log, rosters := life(rng, 1+rng.IntN(8), 60)
		var seen []wire.ServerFrame
		for _, f := range append(log, rosters...) {
			if rng.IntN(3) > 0 {
				seen = append(seen, f)
			}
		}
		rng.Shuffle(len(seen), func(i, j int) { seen[i], seen[j] = seen[j], seen[i] })
		if vs := auditRoom(Life{Capacity: rosters[0].Capacity}, seen...); len(vs) > 0 {
			t.Fatalf("seed %d: %v", seed, vs)
		}
	}
}

func TestAChangeOfARightLogIsFound(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 2))
		capacity := 1 + rng.IntN(8)
		log, _ := life(rng, capacity, 60)
		i := rng.IntN(len(log) - 1)
		what := []string{"drop", "swap", "another user", "occupied"}[rng.IntN(4)]
		switch what {
		case "drop":
			log = slices.Delete(log, i, i+1)
		case "swap":
			log[i].Time, log[i+1].Time = log[i+1].Time, log[i].Time
		case "another user":
			stranger := &wire.Member{UserID: "stranger"}
			if log[i].From != nil {
				log[i].From = stranger
			} else {
				log[i].Member = stranger
			}
		case "occupied":
			if log[i].Type == wire.TypeMessage {
				continue
			}
			log[i].Occupied++
		}
		vs := auditRoom(Life{Capacity: capacity, Complete: true}, log...)
		// A log in which a stranger joins and stays to the end is correct.
		if len(vs) == 0 && (what != "another user" || log[i].Type != wire.TypeMemberJoined) {
			t.Fatalf("seed %d: %s at %d was not found", seed, what, i)
		}
	}
}
