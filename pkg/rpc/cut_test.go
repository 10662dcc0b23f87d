package rpc

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
)

// dying is a room service whose process dies after it has begun its first response.
type dying struct {
	roomv1.UnimplementedRoomServiceServer
	once *sync.Once // shared by all servers: the first one that is called dies
	die  func()
}

func (d *dying) GetRoom(ctx context.Context, req *roomv1.GetRoomRequest) (*roomv1.GetRoomResponse, error) {
	died := false
	d.once.Do(func() { died = true })
	if died {
		if err := grpc.SendHeader(ctx, nil); err != nil {
			return nil, err
		}
		go d.die()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &roomv1.GetRoomResponse{Room: &roomv1.Room{RoomId: req.GetRoomId()}}, nil
}

func TestACallWhoseServerDiesBehindTheHeaderIsAskedOfAnother(t *testing.T) {
	var once sync.Once
	var addresses []string
	for range 2 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := NewServer(ServerConfig{StopTimeout: time.Second})
		ctx, stop := context.WithCancel(context.Background())
		roomv1.RegisterRoomServiceServer(server, &dying{once: &once, die: server.Server.Stop})
		server.SetServing(true)
		ended := make(chan struct{})
		go func() {
			_ = server.Run(ctx, listener) // one of them dies, and Run returns its error
			close(ended)
		}()
		t.Cleanup(func() {
			stop()
			<-ended
		})
		addresses = append(addresses, listener.Addr().String())
	}
	conn, err := Dial(strings.Join(addresses, ","), ClientConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := roomv1.NewRoomServiceClient(conn)
	for range 4 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		answer, err := client.GetRoom(ctx, &roomv1.GetRoomRequest{RoomId: "r"})
		cancel()
		if err != nil || answer.GetRoom().GetRoomId() != "r" {
			t.Fatalf("got %v, %v", answer, Cause(err))
		}
	}
}
