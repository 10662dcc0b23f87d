package rpc

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/balancer"

	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
)

// hanging is a room service. Its first call never returns by itself; if always is set, no
// call does.
type hanging struct {
	roomv1.UnimplementedRoomServiceServer
	always bool
	calls  atomic.Int32
}

func (h *hanging) GetRoom(ctx context.Context, req *roomv1.GetRoomRequest) (*roomv1.GetRoomResponse, error) {
	if h.calls.Add(1) == 1 || h.always {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &roomv1.GetRoomResponse{Room: &roomv1.Room{RoomId: req.GetRoomId()}}, nil
}

// listen runs a room service until the test ends.
func listen(t *testing.T, service roomv1.RoomServiceServer) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(ServerConfig{})
	roomv1.RegisterRoomServiceServer(server, service)
	server.SetServing(true)
	run(t, server, listener)
	return listener.Addr().String()
}

func TestACallThatHangsIsAskedAgainWithinItsDeadline(t *testing.T) {
	service := new(hanging)
	conn := dial(t, listen(t, service), ClientConfig{})
	call, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	answer, err := roomv1.NewRoomServiceClient(conn).GetRoom(call, &roomv1.GetRoomRequest{RoomId: "r"})
	if err != nil || answer.GetRoom().GetRoomId() != "r" {
		t.Fatalf("got %v, %v", answer, err)
	}
	if n := service.calls.Load(); n != 2 {
		t.Errorf("%d calls reached the server, want 2", n)
	}
}

// A server that hangs stays connected for a while. Without the balancer, it would get every
// second call, and every second of the second attempts.
func TestAServerThatHangsIsLeftOutWhileThereIsAnother(t *testing.T) {
	bad, good := &hanging{always: true}, new(answering)
	conn := dial(t, listen(t, bad)+","+listen(t, good), ClientConfig{})
	rooms := roomv1.NewRoomServiceClient(conn)
	get := func() {
		if _, err := rooms.GetRoom(t.Context(), &roomv1.GetRoomRequest{RoomId: "r"}); err != nil {
			t.Error(err)
		}
	}
	for bad.calls.Load() == 0 && !t.Failed() {
		get()
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range 10 {
				get()
			}
		})
	}
	all.Wait()
	if n := bad.calls.Load(); n != 1 {
		t.Errorf("%d calls reached the server that hangs", n)
	}
}

// answering is a room service that answers at once.
type answering struct {
	roomv1.UnimplementedRoomServiceServer
}

func (*answering) GetRoom(context.Context, *roomv1.GetRoomRequest) (*roomv1.GetRoomResponse, error) {
	return &roomv1.GetRoomResponse{}, nil
}

// server is one of a balancer's servers.
type server struct{ balancer.SubConn }

func TestAServerThatHungIsTriedByOneCallAtATimeUntilItAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := &hangs{until: make(map[balancer.SubConn]time.Time)}, &server{}
		call := &attempt{server: s, hangs: h}
		avoids := func(want bool, what string) {
			t.Helper()
			if h.avoids(s, true) != want {
				t.Errorf("%s: avoided is %v", what, !want)
			}
		}
		avoids(false, "nothing is known")
		call.ended(true, false)
		avoids(true, "it hung")
		time.Sleep(hangPause)
		if !h.avoids(s, false) {
			t.Error("it was tried by a call of which nothing is noted")
		}
		avoids(false, "it may be tried")
		avoids(true, "it is being tried")
		call.ended(false, false)
		avoids(true, "that call was given up")
		time.Sleep(attemptTimeout)
		avoids(false, "it may be tried again")
		call.ended(false, true)
		avoids(false, "it answered")
		avoids(false, "it answered")
	})
}
