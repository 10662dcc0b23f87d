package gateway

import (
	"errors"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// What came while the process was stalled waits in the kernel, and must be read first.
func TestNobodyIsEndedByAClockThatWentOnWhileTheProcessStoodStill(t *testing.T) {
	for name, test := range map[string]func(t *testing.T, st *stage, m *member, k *keeper){
		"replaced": func(t *testing.T, st *stage, m *member, k *keeper) {
			time.Sleep(wire.Lease - fence/2)
			k.tick(t.Context())
			st.publish(roomlog.Event{Kind: roomlog.KindReplaced, Data: []byte(m.id)})
			st.step()
			st.got(m, "close 4440")
		},
		"waits for its echo": func(t *testing.T, st *stage, m *member, k *keeper) {
			said, e := st.say(m), st.append()
			m.outgoing.appended(said, e.Seq)
			time.Sleep(12 * time.Second)
			k.tick(t.Context())
			st.publish(e)
			st.step()
			st.got(m, "E1/1")
		},
		"heard of before the tick": func(t *testing.T, _ *stage, m *member, k *keeper) {
			time.Sleep(13 * time.Second)
			m.hear()
			heard := k.g.hub.clock()
			k.tick(t.Context())
			for !m.sock.ending() {
				time.Sleep(keeperTick)
				m.renewedAt(k.g.hub.clock())
				k.tick(t.Context())
			}
			if silent := k.g.hub.clock() - heard; silent > wire.PeerSilence+keeperTick {
				t.Errorf("cut off after %v of silence", silent)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			onStage(t, func(t *testing.T, st *stage) {
				g := &Gateway{cfg: Config{Rooms: &renewals{}}, hub: st.shard.hub, metrics: newMetrics(nil)}
				k, m := newKeeper(g), st.join()
				k.ticked = g.hub.clock()
				m.g, m.in.meter = g, newMeter(0, 0)
				m.hear()
				m.renewedAt(g.hub.clock())
				k.add(m.session)
				test(t, st, m, k)
			})
		})
	}
}

// stall is a connection on which the process is stalled during the first write. The deadline
// of that write passes meanwhile.
type stall struct {
	*tape
	writes int
}

func (c *stall) Write(p []byte) (int, error) {
	if c.writes++; c.writes == 1 {
		time.Sleep(wire.SendTimeout + 2*time.Second)
		return 0, os.ErrDeadlineExceeded
	}
	return c.tape.Write(p)
}

func TestAProcessThatStoodStillDoesNotTakeItsPeerForSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var writers sync.WaitGroup
		s := newSocket(&stall{tape: &tape{}}, wire.MaxQueuedBytes, &writers)
		s.send(numbered(0, 100))
		writers.Wait()
		if s.closeCode() != 0 {
			t.Errorf("closed with %v", s.closeCode())
		}
	})
}

// resumed is a connection of a process that was stalled. The read deadline is noticed before
// what came during the stall.
type resumed struct {
	*tape
	late bool
}

func (c *resumed) Read(p []byte) (int, error) {
	if c.late = !c.late; c.late {
		return 0, os.ErrDeadlineExceeded
	}
	return copy(p, "JOIN"), nil
}

func TestAJoinThatCameInTimeIsReadThoughTheProcessStoodStill(t *testing.T) {
	var writers sync.WaitGroup
	s := &session{in: incoming{meter: newMeter(0, 0)}}
	s.sock = newSocket(&resumed{tape: &tape{}}, wire.MaxQueuedBytes, &writers)
	if n, err := s.read(make([]byte, 10)); n != 4 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	if _, err := s.read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the second time: %v", err)
	}
}
