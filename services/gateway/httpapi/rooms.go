package httpapi

import (
	"context"
	"crypto/rand"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
)

// The names of presence in JSON.
const (
	presenceFull  = "full"
	presenceCount = "count"
)

// roomAnswer is a room as JSON.
type roomAnswer struct {
	RoomID     string `json:"roomId" doc:"The room's id"`
	Epoch      string `json:"epoch" doc:"Distinguishes this room from earlier and later ones with the same id"`
	Title      string `json:"title" doc:"May be empty"`
	Capacity   int32  `json:"capacity" doc:"Number of seats"`
	Reserved   int32  `json:"reserved" doc:"Seats held by permits"`
	Occupied   int32  `json:"occupied" doc:"Seats held by sessions; reserved + occupied ≤ capacity"`
	Presence   string `json:"presence" enum:"full,count" doc:"full: members see each other; count: they see how many there are"`
	CreateTime string `json:"createTime" format:"date-time" doc:"When the room was made"`
}

func roomOf(r *roomv1.Room) roomAnswer {
	presence := presenceFull
	if r.GetPresence() == roomv1.Presence_PRESENCE_COUNT {
		presence = presenceCount
	}
	return roomAnswer{
		RoomID: r.GetRoomId(), Epoch: r.GetEpoch(), Title: r.GetTitle(), Capacity: r.GetCapacity(),
		Reserved: r.GetReserved(), Occupied: r.GetOccupied(), Presence: presence,
		CreateTime: wire.FormatTime(r.GetCreateTime().AsTime()),
	}
}

// createRoomBody has pointers where a field that was left out differs from one that was sent
// with its zero value.
type createRoomBody struct {
	RoomID           *string `json:"roomId,omitempty" doc:"Made for you if left out"`
	Title            string  `json:"title,omitempty" doc:"Shown to people"`
	Capacity         *int32  `json:"capacity" nullable:"false" doc:"Number of seats"`
	Presence         *string `json:"presence,omitempty" enum:"full,count" doc:"full (default up to capacity 256): members are told of joins and leaves; count (default above that, and the only choice above 1,000): they are told only the number of occupied seats"`
	EmptyTimeout     *int32  `json:"emptyTimeoutSeconds,omitempty" doc:"How long the room lives before anybody has entered it"`
	DepartureTimeout *int32  `json:"departureTimeoutSeconds,omitempty" doc:"How long a room that has been entered outlives its last seat"`
}

type createRoomInput struct {
	Body createRoomBody
}

type createRoomOutput struct {
	Location string `header:"Location" doc:"The room's address"`
	Body     roomAnswer
}

type roomInput struct {
	RoomID roomIDParam `path:"roomId" doc:"The room's id"`
}

type roomOutput struct {
	Body roomAnswer
}

type listRoomsInput struct {
	PageSize  pageSizeParam `query:"pageSize" doc:"How many rooms at most"`
	PageToken string        `query:"pageToken" doc:"nextPageToken of the previous page"`
}

type roomList struct {
	Rooms         []roomAnswer `json:"rooms" nullable:"false" doc:"Newest first; may be fewer than asked for"`
	NextPageToken string       `json:"nextPageToken" doc:"Asks for the next page; empty on the last one"`
}

type listRoomsOutput struct {
	Body roomList
}

func (a *api) addRooms(docs huma.API) {
	huma.Register(docs, operation(huma.Operation{
		OperationID:   "createRoom",
		Method:        http.MethodPost,
		Path:          "/v1/rooms",
		Summary:       "Create a room",
		DefaultStatus: http.StatusCreated,
	}, exampleCreateRoom, exampleRoom, wire.BadRequest, wire.RoomExists), a.createRoom)
	huma.Register(docs, operation(huma.Operation{
		OperationID: "listRooms",
		Method:      http.MethodGet,
		Path:        "/v1/rooms",
		Summary:     "List the live rooms, newest first",
	}, nil, roomList{Rooms: []roomAnswer{exampleRoom}}, wire.BadRequest), a.listRooms)
	huma.Register(docs, operation(huma.Operation{
		OperationID: "getRoom",
		Method:      http.MethodGet,
		Path:        "/v1/rooms/{roomId}",
		Summary:     "Look at a room",
	}, nil, exampleRoom, wire.BadRequest, wire.RoomNotFound), a.getRoom)
}

func (a *api) createRoom(ctx context.Context, in *createRoomInput) (*createRoomOutput, error) {
	req, err := createRoomRequest(&in.Body)
	if err != nil {
		return nil, a.refuse(ctx, "createRoom", err)
	}
	resp, err := a.Rooms.CreateRoom(ctx, req)
	if err != nil {
		return nil, a.refuse(ctx, "createRoom", err)
	}
	room := roomOf(resp.GetRoom())
	return &createRoomOutput{Location: "/v1/rooms/" + room.RoomID, Body: room}, nil
}

// createRoomRequest checks only what the gRPC request cannot express: in that, a zero value
// means that the field was left out.
func createRoomRequest(b *createRoomBody) (*roomv1.CreateRoomRequest, error) {
	req := &roomv1.CreateRoomRequest{
		Title:                   b.Title,
		EmptyTimeoutSeconds:     b.EmptyTimeout,
		DepartureTimeoutSeconds: b.DepartureTimeout,
		RequestId:               rand.Text(), // a retry of the call returns the same room
	}
	if b.Capacity == nil {
		return nil, wire.Errorf(wire.BadRequest, "capacity is required")
	}
	req.Capacity = *b.Capacity
	if b.RoomID != nil {
		if *b.RoomID == "" {
			return nil, wire.Errorf(wire.BadRequest, "roomId is empty: leave it out to have one made")
		}
		req.RoomId = *b.RoomID
	}
	if b.Presence != nil {
		switch *b.Presence {
		case presenceFull:
			req.Presence = roomv1.Presence_PRESENCE_FULL
		case presenceCount:
			req.Presence = roomv1.Presence_PRESENCE_COUNT
		default:
			return nil, wire.Errorf(wire.BadRequest, "presence is neither full nor count")
		}
	}
	return req, nil
}

func (a *api) listRooms(ctx context.Context, in *listRoomsInput) (*listRoomsOutput, error) {
	size, err := in.PageSize.value()
	if err != nil {
		return nil, a.refuse(ctx, "listRooms", err)
	}
	resp, err := a.Rooms.ListRooms(ctx, &roomv1.ListRoomsRequest{PageSize: size, PageToken: in.PageToken})
	if err != nil {
		return nil, a.refuse(ctx, "listRooms", err)
	}
	list := roomList{Rooms: make([]roomAnswer, 0, len(resp.GetRooms())), NextPageToken: resp.GetNextPageToken()}
	for _, r := range resp.GetRooms() {
		list.Rooms = append(list.Rooms, roomOf(r))
	}
	return &listRoomsOutput{Body: list}, nil
}

func (a *api) getRoom(ctx context.Context, in *roomInput) (*roomOutput, error) {
	resp, err := a.Rooms.GetRoom(ctx, &roomv1.GetRoomRequest{RoomId: string(in.RoomID)})
	if err != nil {
		return nil, a.refuse(ctx, "getRoom", err)
	}
	return &roomOutput{Body: roomOf(resp.GetRoom())}, nil
}

// value returns the page size, or 0 if there is none, which lets the room service choose. It
// refuses a page size of 0.
func (p pageSizeParam) value() (int32, error) {
	if p == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(string(p), 10, 32)
	if err != nil {
		return 0, wire.Errorf(wire.BadRequest, "pageSize is not a whole number, or far out of range")
	}
	return int32(n), wire.CheckRange("pageSize", int(n), 1, wire.MaxPageSize)
}
