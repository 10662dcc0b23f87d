package gateway

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// slowTape takes two full batches every pieceRest.
type slowTape struct{ tape }

func (c *slowTape) Write(p []byte) (int, error) {
	time.Sleep(pieceRest * time.Duration(len(p)) / (2 * fullBatch))
	return c.tape.Write(p)
}

// backlog is entries of 1 MiB in all.
func (st *stage) backlog() (events []roomlog.Event) {
	for range 100 {
		e := st.append()
		e.Data = []byte(strings.Repeat("x", 10<<10))
		events = append(events, e)
	}
	return events
}

// What waited while this process stood still is more than a member may leave waiting, and
// is no reason to call one slow that reads.
func TestMembersWhoReadGetABacklogAPieceAtATime(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.joining()
		tape := &slowTape{}
		m.sock = newSocket(tape, &st.writers)
		st.joined(m)
		backlog := st.backlog()
		st.publish(backlog...)
		for range 1000 {
			st.step()
			time.Sleep(pieceLook)
		}
		if code := m.sock.closed(); code != 0 {
			t.Fatalf("closed with %d", code)
		}
		if got := tape.frames(); len(got) != len(backlog) || st.reads != 0 {
			t.Fatalf("%d entries of %d came, with %d reads of the log", len(got), len(backlog), st.reads)
		}
	})
}

func TestMembersWhoDoNotReadABacklogAreClosed(t *testing.T) {
	onStage(t, func(t *testing.T, st *stage) {
		m := st.joining()
		conn, peer := net.Pipe()
		defer peer.Close()
		m.sock = newSocket(conn, &st.writers)
		st.joined(m)
		st.publish(st.backlog()...)
		for range 1000 {
			st.step()
			time.Sleep(pieceLook)
		}
		if code := m.sock.closed(); code != wire.CloseSlowConsumer {
			t.Fatalf("closed with %d", code)
		}
		m.sock.abort()
	})
}
