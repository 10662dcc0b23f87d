package gateway

import (
	"os"
	"syscall"
	"testing"
	"time"
)

func TestAnAnswerToAPingWakesNobody(t *testing.T) {
	const pong = pongHeader + "mask"
	for name, test := range map[string]struct {
		comes string
		stays bool
	}{
		"the answer":                  {pong, true},
		"half of it":                  {pong[:4], false},
		"more than it":                {pong + "\x81", false},
		"two of them":                 {pong + pong, false},
		"one with a payload":          {"\x8a\x81mask!", false},
		"one without a mask":          {"\x8a\x00", false},
		"a ping":                      {"\x89\x80mask", false},
		"an empty message":            {"\x81\x80mask", false},
		"a pong with a reserved bit":  {"\xca\x80mask", false},
		"a pong that is not the last": {"\x0a\x80mask", false},
	} {
		s, say := quietMember(t)
		s.g.hub = &hub{start: time.Now().Add(-time.Hour)}
		fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		epoll := os.NewFile(uintptr(fd), "epoll")
		defer epoll.Close()
		if err := arm(epoll, syscall.EPOLL_CTL_ADD, s, news); err != nil {
			t.Fatal(err)
		}
		events := make([]syscall.EpollEvent, 2)
		comes := func() bool {
			t.Helper()
			say(test.comes)
			by, in := time.Now().Add(10*time.Second), make([]byte, 64)
			for told, came := false, 0; !told || came < len(test.comes); time.Sleep(time.Millisecond) {
				if time.Now().After(by) {
					t.Fatalf("%s: told %v, %d bytes came", name, told, came)
				}
				n, _ := syscall.EpollWait(fd, events, 0)
				told = told || n == 1
				came, _, _ = syscall.Recvfrom(s.sock.fd, in, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			}
			return s.absorbPong()
		}
		s.sock.parked = s
		for range 2 {
			before := s.heardAt.Load()
			if stays := comes(); stays != test.stays {
				t.Errorf("%s: stays %v", name, stays)
			}
			left := make([]byte, 64)
			n, _, _ := syscall.Recvfrom(s.sock.fd, left, syscall.MSG_DONTWAIT)
			switch heard := s.heardAt.Load() != before; {
			case test.stays && (n > 0 || !heard):
				t.Errorf("%s: %d bytes are left, heard %v", name, n, heard)
			case !test.stays && string(left[:n]) != test.comes:
				t.Errorf("%s: %q is left", name, left[:n])
			}
			if !test.stays {
				break
			}
		}
		s.sock.parked = nil // there is nothing to wake
	}
}

func TestWhoFloodsWithAnswersIsWoken(t *testing.T) {
	s, say := quietMember(t)
	s.in.meter = newMeter(1, 0) // with a burst of 0
	s.sock.parked = s
	say(pongHeader + "mask")
	if s.absorbPong() {
		t.Error("it stays parked")
	}
	var p [6]byte
	if n, err := s.sock.nc.Read(p[:]); n != len(p) {
		t.Errorf("%d bytes are left, %v", n, err)
	}
	s.sock.parked = nil
}

func TestParkedMemberThatAnswersStaysParked(t *testing.T) {
	s, say := quietMember(t)
	s.g.hub = &hub{start: time.Now().Add(-time.Hour)}
	if !s.park() {
		t.Fatal("not parked")
	}
	for range 20 {
		before := s.heardAt.Load()
		say(pongHeader + "mask") // a goroutine that reads would panic: there is no WebSocket
		for by := time.Now().Add(10 * time.Second); s.heardAt.Load() == before; time.Sleep(time.Millisecond) {
			if time.Now().After(by) {
				t.Fatal("not heard")
			}
		}
	}
	s.sock.mu.Lock()
	if s.sock.parked != s {
		t.Error("woken")
	}
	s.sock.parked = nil
	s.sock.mu.Unlock()
	s.g.parking.close()
}
