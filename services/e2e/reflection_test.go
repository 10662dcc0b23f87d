package e2e

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"

	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
)

func TestTheRoomServiceTellsWhatItServes(t *testing.T) {
	t.Parallel()
	c := cluster.Start(t, cluster.Options{Rooms: 1, Gateways: 1, NoProxy: true})
	conn, err := grpc.NewClient(c.Rooms[0].Addr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	stream, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(within(t, soon))
	must(t, err)
	must(t, stream.Send(&grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{},
	}))
	answer, err := stream.Recv()
	must(t, err)
	for _, service := range answer.GetListServicesResponse().GetService() {
		if service.GetName() == roomv1.RoomService_ServiceDesc.ServiceName {
			return
		}
	}
	t.Errorf("reflection does not tell of the room service: %v", answer)
}
