package gateway

import (
	"testing"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

func TestEventsBeyondAFullInboxAreReadFromTheLog(t *testing.T) {
	for name, full := range map[string]struct{ events, bytes int }{
		"of events": {maxInbox, 1},
		"of bytes":  {maxInboxBytes / wire.DefaultFrameBytes, wire.DefaultFrameBytes},
	} {
		t.Run(name, func(t *testing.T) {
			onStage(t, func(t *testing.T, st *stage) {
				notices := 0
				st.shard.hub.noticesLost = func() { notices++ }
				m := st.join()
				st.step()
				busy := roomlog.Event{Kind: roomlog.KindMessage, Epoch: "other", Seq: 1, Data: make([]byte, full.bytes)}
				for range full.events {
					st.shard.event("another room", busy)
				}
				for _, e := range st.appendMany(3) {
					st.shard.event("room", e)
				}
				if n := len(st.shard.inbox); n != full.events {
					t.Fatalf("%d events wait, want %d", n, full.events)
				}
				if n := st.shard.metrics.drops.With(dropInboxFull).Get(); n != 3 {
					t.Fatalf("%d drops are counted, want 3", n)
				}
				st.got(m, span("E1", 1, 3)...)
				if notices != 0 {
					t.Fatal("entries that were dropped are in the log, and count as lost notices")
				}
				st.publish(st.append())
				st.shard.event("room", st.append())
				st.got(m, span("E1", 1, 5)...)
			})
		})
	}
}

func TestNoticeBeyondAFullInboxCountsAsLost(t *testing.T) {
	for name, test := range map[string]struct {
		event roomlog.Event
		lost  int
	}{
		"replaced":  {roomlog.Event{Kind: roomlog.KindReplaced, Data: []byte("s1")}, 1},
		"deleted":   {roomlog.Event{Kind: roomlog.KindDeleted, Epoch: "E1"}, 1},
		"occupancy": {roomlog.Event{Kind: roomlog.KindOccupancy, Epoch: "E1", Data: []byte("1")}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			onStage(t, func(t *testing.T, st *stage) {
				notices := 0
				st.shard.hub.noticesLost = func() { notices++ }
				for range maxInbox {
					st.shard.run(func(*shard) {})
				}
				st.shard.event("room", test.event)
				st.step()
				if notices != test.lost {
					t.Fatalf("notices counted as lost %d times, want %d", notices, test.lost)
				}
			})
		})
	}
}
