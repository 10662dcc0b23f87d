package gateway

import (
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// A session whose lease has ended sends nothing more, not even what is queued for its writer.
// It is closed a second before the lease ends, or after that if the process was stalled.
func TestWhatWaitsBehindAFenceIsNotSent(t *testing.T) {
	for _, closedFirst := range []bool{false, true} {
		for _, batch := range []int{1, 100} { // frames: the queue plus one batch stays within the limit
			s, peer, _ := tcpSocket(t)
			sent, waits := 0, func() int {
				s.mu.Lock()
				defer s.mu.Unlock()
				return len(s.queue)
			}
			for waits() < 130<<10 {
				var frames []byte
				for range batch {
					frames = append(frames, numbered(sent, 1000)...)
					sent++
				}
				if !s.send(frames) {
					t.Fatal("closed")
				}
			}
			if closedFirst {
				s.closeWith(wire.CloseLeaseLost)
			}
			s.fence()
			if s.send(numbered(sent, 1000)) {
				t.Error("sent behind the fence")
			}
			s.closeWith(wire.CloseLeaseLost)
			got, code := readNumbered(t, peer)
			if got > sent-100 || code != wire.CloseLeaseLost {
				t.Errorf("closed first %v, %d frames a batch: %d of %d came, closed with %d", closedFirst, batch, got, sent, code)
			}
		}
	}
}

// When a connection is over, the kernel gives its descriptor to the next one.
func TestNothingIsSentToTheNextConnectionOfADescriptor(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, end := range map[string]func(*socket){
		"aborted":  (*socket).abort,
		"finished": func(s *socket) { s.finish(true) },
	} {
		old, _, _ := tcpSocket(t)
		end(old)
		var next *socket
		var peer net.Conn
		for n := 0; next == nil || next.fd != old.fd; n++ {
			if n == 100 {
				t.Fatalf("descriptor %d is not used again", old.fd)
			}
			dialed, accepted := connection(t, l)
			for _, ends := range [][2]net.Conn{{dialed, accepted}, {accepted, dialed}} {
				if next == nil || next.fd != old.fd {
					next, peer, _ = newTestSocket(t, ends[0], ends[1])
				}
			}
		}
		if old.send(numbered(0, 10)) {
			t.Errorf("%s: sent", name)
		}
		old.closeWith(wire.CloseLeaseLost)
		next.closeWith(wire.CloseNormal)
		if frames, code := readNumbered(t, peer); frames != 0 || code != wire.CloseNormal {
			t.Errorf("%s: %d frames and close %d came to another connection", name, frames, code)
		}
	}
}

// A peer that takes a little now and then would otherwise keep its socket for as long as it
// likes.
func TestPeerThatReadsSlowlyHasLimitedTimeUpToTheCloseFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, peer, writers := memSocket(t)
		for range 15 {
			s.send(appendFrame(nil, make([]byte, 15<<10)))
		}
		synctest.Wait()
		s.closeWith(wire.CloseReplaced)
		began := time.Now()
		var reader sync.WaitGroup
		reader.Go(func() {
			for p := make([]byte, 1000); ; time.Sleep(9 * time.Second) {
				if _, err := peer.Read(p); err != nil {
					return
				}
			}
		})
		writers.Wait()
		if d := time.Since(began); d < slowPatience || d > slowPatience+2*writeTick {
			t.Errorf("the writer ended after %v, want %v", d, slowPatience)
		}
		_ = peer.Close()
		reader.Wait()
	})
}
