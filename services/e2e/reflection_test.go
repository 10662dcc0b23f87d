package e2e

import (
	"slices"
	"testing"

	"google.golang.org/grpc/reflection/grpc_reflection_v1"

	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
)

func TestTheRoomServiceTellsWhatItServes(t *testing.T) {
	t.Parallel()
	conn := dialRoom(t, startPair(t).Rooms[0])
	stream, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(within(t, soon))
	must(t, err)
	must(t, stream.Send(&grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{},
	}))
	answer, err := stream.Recv()
	must(t, err)
	if !slices.ContainsFunc(answer.GetListServicesResponse().GetService(), func(s *grpc_reflection_v1.ServiceResponse) bool {
		return s.GetName() == roomv1.RoomService_ServiceDesc.ServiceName
	}) {
		t.Errorf("reflection does not tell of the room service: %v", answer)
	}
}
