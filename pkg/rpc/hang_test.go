package rpc

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
)

// hanging is a room service of which the first call never returns by itself.
type hanging struct {
	roomv1.UnimplementedRoomServiceServer
	calls atomic.Int32
}

func (h *hanging) GetRoom(ctx context.Context, req *roomv1.GetRoomRequest) (*roomv1.GetRoomResponse, error) {
	if h.calls.Add(1) == 1 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &roomv1.GetRoomResponse{Room: &roomv1.Room{RoomId: req.GetRoomId()}}, nil
}

func TestACallThatHangsIsAskedAgainWithinItsDeadline(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(ServerConfig{})
	service := new(hanging)
	roomv1.RegisterRoomServiceServer(server, service)
	server.SetServing(true)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx, listener) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()

	conn, err := Dial(listener.Addr().String(), ClientConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	call, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	answer, err := roomv1.NewRoomServiceClient(conn).GetRoom(call, &roomv1.GetRoomRequest{RoomId: "r"})
	if err != nil || answer.GetRoom().GetRoomId() != "r" {
		t.Fatalf("got %v, %v", answer, err)
	}
	if n := service.calls.Load(); n != 2 {
		t.Errorf("%d calls reached the server, want 2", n)
	}
}
