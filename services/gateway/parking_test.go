package gateway

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// quietMember makes a member's session on a TCP connection, without anything around it. The
// returned function sends to it.
func quietMember(t *testing.T) (*session, func(string)) {
	sock, peer, _ := tcpSocket(t)
	s := &session{g: &Gateway{metrics: newMetrics(nil)}, sock: sock, in: incoming{meter: newMeter(0, 0)}}
	s.renewedAt(0)
	return s, func(text string) {
		t.Helper()
		if _, err := peer.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNudgeEndsAReadAndNothingElse(t *testing.T) {
	s, say := quietMember(t)
	p := make([]byte, 8)
	reads := func(want string) {
		t.Helper()
		if n, err := s.read(p); err != nil || string(p[:n]) != want {
			t.Fatalf("read %q, %v, want %q", p[:n], err, want)
		}
	}
	for _, talks := range []bool{true, false} {
		// The reading goroutine is busy with something else.
		s.talks.Store(talks)
		s.sock.nudge()
		say("a")
		reads("a")
	}
	s.sock.nudge()
	if _, err := s.read(p); !errors.Is(err, errQuiet) {
		t.Fatal(err)
	}
	// The goroutine waits in a read until the keeper finds that the member is quiet.
	s.talks.Store(true)
	ended := make(chan error)
	go func() {
		_, err := s.read(p)
		ended <- err
	}()
	s.talks.Store(false)
	s.sock.nudge()
	if err := <-ended; !errors.Is(err, errQuiet) {
		t.Fatal(err)
	}
	s.in.amid = true // in the middle of a message it reads on
	go func() {
		_, err := s.read(p)
		ended <- err
	}()
	s.sock.nudge()
	say("b")
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func TestSessionThatIsAboutToEndIsNotParked(t *testing.T) {
	for name, end := range map[string]func(s *socket){
		"closed":  func(s *socket) { s.closeWith(wire.CloseReplaced) },
		"aborted": func(s *socket) { s.abort() },
	} {
		s, _ := quietMember(t)
		end(s.sock)
		if s.park() {
			t.Errorf("%s: parked", name)
		}
	}
}

func TestNobodyIsParkedForAMinuteWhereThatDoesNotWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p parking
		p.pause(errors.New("no more descriptors"))
		time.Sleep(pauseAfter - time.Second/2)
		if !p.off.Load() {
			t.Error("tried again too soon")
		}
		time.Sleep(time.Second)
		if p.off.Load() {
			t.Error("not tried again")
		}
		p.pause(errors.ErrUnsupported)
		time.Sleep(time.Hour)
		if !p.off.Load() {
			t.Error("tried again where there is no epoll")
		}
	})
}
