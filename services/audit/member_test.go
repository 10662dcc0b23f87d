package audit

import (
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

func gap(from, to int64) wire.ServerFrame {
	return wire.ServerFrame{Type: wire.TypeGap, GapFrom: from, GapTo: to}
}

func confirm(epoch string, seq int64, recovered bool) wire.ServerFrame {
	return with(joined(seq, 8, "me"), func(f *wire.ServerFrame) { f.Epoch, f.Recovered = epoch, recovered })
}

// feed gives frames to a member. A JOINED begins a connection, which, if it is not the
// first, asked for what was missed.
func feed(m *Member, frames ...wire.ServerFrame) []Violation {
	var vs []Violation
	for _, f := range frames {
		if f.Type != wire.TypeJoined {
			vs = append(vs, m.Received(f).Violations...)
			continue
		}
		var after *wire.Position
		if pos := m.Position(); pos.Epoch != "" {
			after = &pos
		}
		vs = append(vs, m.Joined(f, after)...)
	}
	return vs
}

func TestEachBreakageOfWhatAMemberReceivedIsFound(t *testing.T) {
	say := func(seq int64) wire.ServerFrame { return message(seq, "you", "") }
	for _, c := range []struct {
		name   string
		frames []wire.ServerFrame
		want   string
	}{
		{"one after the other", []wire.ServerFrame{confirm("e", 3, false), say(4), join(5, "x", 2), left(6, "x", 1), {Type: wire.TypePong}, {Type: wire.TypeDraining}}, ""},
		{"a hole", []wire.ServerFrame{confirm("e", 3, false), say(4), say(6), say(7)}, "seq missing"},
		{"a hole at the start", []wire.ServerFrame{confirm("e", 3, false), say(5)}, "seq missing"},
		{"a double", []wire.ServerFrame{confirm("e", 3, false), say(4), say(4), say(5)}, "seq double or out of order"},
		{"what JOINED covers", []wire.ServerFrame{confirm("e", 3, false), say(3)}, "seq double or out of order"},
		{"out of order", []wire.ServerFrame{confirm("e", 3, false), say(5), say(4)}, "seq double or out of order, seq missing"},
		{"a hole that is told", []wire.ServerFrame{confirm("e", 3, false), gap(4, 9), say(10)}, ""},
		{"a GAP that leaves some out", []wire.ServerFrame{confirm("e", 3, false), gap(5, 9), say(10)}, "GAP that is not true"},
		{"a GAP over what came", []wire.ServerFrame{confirm("e", 3, false), say(4), gap(4, 9), say(10)}, "GAP that is not true"},
		{"a GAP backwards", []wire.ServerFrame{confirm("e", 3, false), gap(4, 3), say(4)}, "GAP that is not true"},
		{"recovered without after", []wire.ServerFrame{confirm("e", 3, true)}, "recovered is not true"},
		{"come back, nothing missed", []wire.ServerFrame{confirm("e", 3, false), confirm("e", 3, true), say(4)}, ""},
		{"come back, nothing missed, not told so", []wire.ServerFrame{confirm("e", 3, false), confirm("e", 3, false), say(4)}, "recovered is not true"},
		{"come back to what was missed", []wire.ServerFrame{confirm("e", 3, false), confirm("e", 5, true), say(4), say(5), say(6)}, ""},
		{"not all that was missed", []wire.ServerFrame{confirm("e", 3, false), confirm("e", 5, true), say(5), say(6)}, "seq missing"},
		{"recovered and a GAP", []wire.ServerFrame{confirm("e", 3, false), confirm("e", 5, true), gap(4, 5), say(6)}, "recovered is not true"},
		{"not recovered, no GAP", []wire.ServerFrame{confirm("e", 3, false), confirm("e", 5, false), say(6)}, "seq missing"},
		{"not recovered, but all is there", []wire.ServerFrame{confirm("e", 3, false), confirm("e", 5, false), say(4), say(5)}, "recovered is not true"},
		{"not recovered, a GAP without need", []wire.ServerFrame{confirm("e", 3, false), confirm("e", 5, false), gap(4, 5), say(6)}, "GAP that is not true"},
		{"history no longer reaches", []wire.ServerFrame{confirm("e", 3, false), confirm("e", 2000, false), gap(4, 1000), say(1001)}, ""},
		{"a new life of the room", []wire.ServerFrame{confirm("e", 3, false), confirm("f", 2, false), gap(1, 2), say(3)}, ""},
		{"a new life, recovered", []wire.ServerFrame{confirm("e", 3, false), confirm("f", 2, true), say(3)}, "recovered is not true, seq missing"},
		{"a new life, no GAP", []wire.ServerFrame{confirm("e", 3, false), confirm("f", 2, false), say(3)}, "seq missing"},
		{"set back", []wire.ServerFrame{confirm("e", 3, false), say(4), confirm("e", 2, false), say(3)}, "log set back"},
		{"another room", []wire.ServerFrame{with(confirm("e", 3, false), func(f *wire.ServerFrame) { f.RoomID = "q" })}, "frame that breaks the contract"},
		{"JOINED twice on a connection", []wire.ServerFrame{confirm("e", 3, false), {Type: "NEWS"}}, "frame that breaks the contract"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if vs := feed(NewMember("r", true), c.frames...); kinds(vs) != c.want {
				t.Errorf("found %v, want %q", vs, c.want)
			}
		})
	}
}

func TestAGapIsJudgedByHowFarTheLogHasGrown(t *testing.T) {
	const kept = wire.HistoryEntries
	for _, c := range []struct {
		name  string
		grown int64
		back  []wire.ServerFrame // a rejoin after 1
		want  string
	}{
		{"as history lost it", kept + 5, []wire.ServerFrame{confirm("e", 9, false), gap(2, 5), message(6, "you", "")}, ""},
		{"one entry too many", kept + 4, []wire.ServerFrame{confirm("e", 9, false), gap(2, 5)}, "GAP that is not true"},
		{"during a replay", kept + 5, []wire.ServerFrame{confirm("e", 9, true), message(2, "you", ""), gap(3, 5)}, ""},
		{"at the beginning of one", kept + 5, []wire.ServerFrame{confirm("e", 9, true), gap(2, 5)}, "recovered is not true"},
		{"behind JOINED", kept + 5, []wire.ServerFrame{confirm("e", 1, true), gap(2, 5)}, ""},
		{"behind JOINED, one too many", kept + 4, []wire.ServerFrame{confirm("e", 1, true), gap(2, 5)}, "GAP that is not true"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := NewMember("r", true)
			feed(m, confirm("e", 1, false))
			var vs []Violation
			for _, f := range c.back {
				vs = append(vs, feed(m, f)...)
				m.Grew(c.grown)
			}
			if kinds(vs) != c.want {
				t.Errorf("found %v, want %q", vs, c.want)
			}
		})
	}
}

func TestAHoleCountsItsSeqs(t *testing.T) {
	m := NewMember("r", true)
	feed(m, confirm("e", 3, false))
	if vs := m.Received(message(10, "you", "")).Violations; len(vs) != 1 || vs[0].Count != 6 || vs[0].Seq != 4 {
		t.Errorf("%+v", vs)
	}
}

func TestARejoinWithoutAfterFindsTheLogNotSetBack(t *testing.T) {
	m := NewMember("r", true)
	m.Joined(confirm("e", 3, false), nil)
	m.Received(message(4, "you", ""))
	if got := kinds(m.Joined(confirm("e", 3, false), nil)); got != string(SetBack) {
		t.Errorf("found %q", got)
	}
}

func TestOwnMessages(t *testing.T) {
	start := time.Unix(1000, 0)
	refused := func(id string) wire.ServerFrame { return wire.ServerFrame{Type: wire.TypeError, ID: id} }
	type step any
	type send struct {
		id    string
		after time.Duration
	}
	for _, c := range []struct {
		name   string
		steps  []step
		want   string
		unsent int // unanswered at the end
	}{
		{"echoed", []step{confirm("e", 3, false), send{"1", 0}, message(4, "me", "1")}, "", 0},
		{"on its way", []step{confirm("e", 3, false), send{"1", 0}}, "", 1},
		{"refused", []step{confirm("e", 3, false), send{"1", 0}, refused("1")}, "", 0},
		{"echoed at two places", []step{confirm("e", 3, false), send{"1", 0}, message(4, "me", "1"), message(5, "me", "1")}, "message delivered twice", 0},
		{"another's of that id", []step{confirm("e", 3, false), send{"1", 0}, message(4, "me", "1"), message(5, "you", "1")}, "", 0},
		{"unanswered, and a later one is not", []step{confirm("e", 3, false), send{"1", 0}, send{"2", EchoPatience}, message(4, "me", "2")}, "message unanswered", 0},
		{"unanswered, and a PING is not", []step{confirm("e", 3, false), send{"1", 0}, send{"", EchoPatience}, wire.ServerFrame{Type: wire.TypePong}}, "message unanswered", 0},
		{"slow, but there is time", []step{confirm("e", 3, false), send{"1", 0}, send{"2", EchoPatience - 1}, message(4, "me", "2")}, "", 1},
		{"lost with the connection", []step{confirm("e", 3, false), send{"1", 0}, confirm("e", 3, true), send{"2", time.Minute}, message(4, "me", "2")}, "", 0},
		{"sent again, in what was missed", []step{confirm("e", 3, false), send{"1", 0}, confirm("e", 4, true), send{"1", 1}, message(4, "me", "1")}, "", 0},
		{"sent again, acknowledged in front", []step{confirm("e", 3, false), send{"1", 0}, message(4, "me", "1"), confirm("e", 4, true), send{"1", 1}, message(4, "me", "1")}, "", 0},
		{"acknowledged with another seq", []step{confirm("e", 3, false), send{"1", 0}, message(4, "me", "1"), confirm("e", 4, true), send{"1", 1}, message(3, "me", "1")}, "message delivered twice", 0},
		{"acknowledged without a repetition", []step{confirm("e", 3, false), send{"1", 0}, message(4, "me", "1"), confirm("e", 4, true), message(4, "me", "1")}, "seq double or out of order", 0},
		{"repeated at once", []step{confirm("e", 3, false), send{"1", 0}, send{"1", 1}, message(4, "me", "1"), send{"1", 2}}, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := NewMember("r", true)
			var vs []Violation
			for _, s := range c.steps {
				switch s := s.(type) {
				case wire.ServerFrame:
					vs = append(vs, feed(m, s)...)
				case send:
					if s.id == "" {
						m.Pinged(start.Add(s.after))
					} else {
						m.Sent(s.id, start.Add(s.after))
					}
				}
			}
			if kinds(vs) != c.want || len(m.Unanswered()) != c.unsent {
				t.Errorf("found %v with %v unanswered, want %q with %d", vs, m.Unanswered(), c.want, c.unsent)
			}
		})
	}
}

func TestAReceiptShowsWhenTheRoomAcceptedAMessage(t *testing.T) {
	m := NewMember("r", true)
	sent := time.Unix(1000, 0)
	feed(m, confirm("e", 3, false))
	m.Sent("1", sent)
	if r := m.Received(message(4, "me", "1")); !r.Entry || !r.Accepted.Equal(sent) {
		t.Errorf("%+v", r)
	}
	m.Sent("2", sent)
	feed(m, confirm("e", 5, true)) // the replay contains what another connection sent
	m.Sent("2", sent)
	if r := m.Received(message(5, "me", "2")); !r.Entry || !r.Accepted.IsZero() {
		t.Errorf("%+v", r)
	}
}
