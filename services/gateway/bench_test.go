package gateway

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// unreadFrames is how many frames may wait in the kernel for a member: few enough that the
// kernel takes every write at once.
const unreadFrames = 32

// pairs makes connections over loopback.
func pairs(b *testing.B, n int) (ours, theirs []net.Conn) {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	for range n {
		peer, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { peer.Close() })
		c, err := listener.Accept()
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		ours, theirs = append(ours, c), append(theirs, peer)
	}
	return ours, theirs
}

// BenchmarkFanOut sends one room's entries to all its members, one or several in a batch. The
// members read while the timer is stopped, so that their work is not measured.
func BenchmarkFanOut(b *testing.B) {
	from := wire.Member{UserID: "u_WLFLQWJUTWMUGOWLELG5J7LNUY"}.Encode()
	frame := wire.MessageFrame(123456, time.Unix(0, 0), wire.MessageTail(from, "", wire.Quote(strings.Repeat("x", 128))))
	size := len(appendFrame(nil, frame))
	for _, members := range []int{4, 20, 1000} {
		for _, batch := range []int{1, 16} {
			b.Run(fmt.Sprintf("members=%d/batch=%d", members, batch), func(b *testing.B) {
				ours, theirs := pairs(b, members)
				var writers sync.WaitGroup
				b.Cleanup(writers.Wait)
				sh := newShard(&hub{ctx: b.Context(), start: time.Now(), rooms: make(map[string]*headcount)}, newMetrics(nil))
				sh.open("room", "")
				for i, c := range ours {
					m := &session{id: fmt.Sprint("s", i), sock: newSocket(c, wire.MaxQueuedBytes, &writers)}
					m.joined = wire.Joined{RoomID: "room", Epoch: "E1"}
					if !sh.rooms["room"].add(m, 0) {
						b.Fatal("a member was not let in")
					}
				}
				sh.settled("room", "")
				var seq int64
				unread, buf := 0, make([]byte, 2*unreadFrames*size)
				b.ReportAllocs()
				for b.Loop() {
					for range batch {
						seq++
						sh.rooms["room"].event(roomlog.Event{Kind: roomlog.KindMessage, Epoch: "E1", Seq: seq, Data: frame})
					}
					sh.rooms["room"].restUntil.Store(0) // or the room would rest, and the peers wait forever
					sh.flush()
					if unread += batch; unread >= unreadFrames {
						b.StopTimer()
						for _, peer := range theirs {
							if _, err := io.ReadFull(peer, buf[:unread*size]); err != nil {
								b.Fatal(err)
							}
						}
						unread = 0
						b.StartTimer()
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(seq*int64(members)), "ns/delivery")
			})
		}
	}
}
