package gateway

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
)

// Whatever is lost, doubled or late on the channel, and whoever comes and goes: every member
// sees the log of its epoch from its JOINED on, in order, each entry once.
func TestMembersSeeTheWholeLogWhateverTheChannelDoes(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			onStage(t, func(t *testing.T, st *stage) { st.wander(rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func (st *stage) wander(rng *rand.Rand) {
	var in, joining, all []*member
	var late []roomlog.Event
	life := 1
	lengths := map[string]int{}
	for range 120 {
		switch n := rng.IntN(100); {
		case n < 40:
			for _, e := range st.appendMany(1 + rng.IntN(4)) {
				switch rng.IntN(12) {
				case 0: // lost
				case 1:
					late = append(late, e)
				case 2:
					st.publish(e, e)
				default:
					st.publish(e)
				}
			}
		case n < 50:
			m := st.joining()
			joining, all = append(joining, m), append(all, m)
		case n < 62 && len(joining) > 0:
			st.joined(joining[0])
			in, joining = append(in, joining[0]), joining[1:]
		case n < 68 && len(in) > 0:
			i := rng.IntN(len(in))
			m := in[i]
			in = slices.Delete(in, i, i+1)
			all = slices.DeleteFunc(all, func(a *member) bool { return a == m })
			if r := st.room(); r != nil {
				r.remove(m.session)
			}
		case n < 74:
			st.publish(late...)
			late = nil
		case n < 78:
			if r := st.room(); r != nil {
				r.read() // a break of the subscription
			}
		case n < 82:
			st.hold()
		case n < 88:
			st.release()
		case n < 90:
			lengths[st.epoch] = len(st.entries)
			old := st.epoch
			life++
			st.again(fmt.Sprintf("E%d", life))
			if rng.IntN(2) == 0 {
				st.publish(roomlog.Event{Kind: roomlog.KindDeleted, Epoch: old})
			}
		default:
			st.step()
		}
	}
	for _, m := range joining {
		st.joined(m)
	}
	st.release()
	if r := st.room(); r != nil {
		r.read()
	}
	for range 5 {
		st.step()
		time.Sleep(readRetry)
	}
	lengths[st.epoch] = len(st.entries)
	for _, m := range all {
		got := m.tape.frames()
		end := ""
		if len(got) > 0 && strings.HasPrefix(got[len(got)-1], "close") {
			end, got = got[len(got)-1], got[:len(got)-1]
		}
		want := span(m.joined.Epoch, int(m.from), lengths[m.joined.Epoch])
		switch {
		case m.joined.Epoch == st.epoch && (end != "" || !slices.Equal(got, want)):
			st.t.Fatalf("a member from %d of %s got %q %s, want %q", m.from, m.joined.Epoch, got, end, want)
		case m.joined.Epoch != st.epoch && (end != "close 4442" && end != "close 4503" || len(got) > len(want) || !slices.Equal(got, want[:len(got)])):
			st.t.Fatalf("a member from %d of the old life %s got %q %s, of %q", m.from, m.joined.Epoch, got, end, want)
		}
	}
}
