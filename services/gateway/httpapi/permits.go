package httpapi

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/danielgtaylor/huma/v2"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
)

type noFields struct{}

type reserveInput struct {
	RoomID        roomIDParam `path:"roomId" doc:"The room's id"`
	Authorization string      `header:"Authorization" hidden:"true"` // documented as the security scheme
	Body          *noFields
}

type permitAnswer struct {
	Permit     string  `json:"permit" doc:"A secret: whoever presents it takes the seat"`
	RoomID     string  `json:"roomId" doc:"The room"`
	UserID     string  `json:"userId" doc:"Whose seat it is"`
	ExpireTime string  `json:"expireTime" format:"date-time" doc:"When it lapses"`
	TTLSeconds float64 `json:"ttlSeconds" doc:"How long it lives, from now on"`
	URL        string  `json:"url" doc:"The WebSocket's path"`
}

type reserveOutput struct {
	Body permitAnswer
}

type cancelInput struct {
	RoomID roomIDParam `path:"roomId" doc:"The room's id"`
	Permit string      `path:"permit" doc:"The permit"`
}

func (a *api) addPermits(docs huma.API) {
	huma.Register(docs, operation(huma.Operation{
		OperationID: "reservePermit",
		Method:      http.MethodPost,
		Path:        "/v1/rooms/{roomId}/permits",
		Summary:     "Reserve a seat",
		Description: "Reserves a seat for the user of the identity; open url as a WebSocket before the permit lapses. " +
			"A user who has a permit or a seat of the room already gets a permit for that same seat.",
		DefaultStatus: http.StatusCreated,
		Security:      []map[string][]string{{securityScheme: {}}},
	}, noFields{}, examplePermit, wire.BadRequest, wire.Unauthenticated, wire.RoomNotFound, wire.RoomFull), a.reservePermit)
	huma.Register(docs, operation(huma.Operation{
		OperationID:   "cancelPermit",
		Method:        http.MethodDelete,
		Path:          "/v1/rooms/{roomId}/permits/{permit}",
		Summary:       "Give a reserved seat back",
		Description:   "Answers 204 too when there is no such permit (any more).",
		DefaultStatus: http.StatusNoContent,
	}, nil, nil, wire.BadRequest), a.cancelPermit)
}

func (a *api) reservePermit(ctx context.Context, in *reserveInput) (*reserveOutput, error) {
	token, err := bearer(in.Authorization)
	if err != nil {
		return nil, a.refuse(ctx, "reservePermit", err)
	}
	id, err := a.Identities.Verify(token)
	if err != nil {
		return nil, a.refuse(ctx, "reservePermit", err)
	}
	resp, err := a.Rooms.ReservePermit(ctx, &roomv1.ReservePermitRequest{
		RoomId: string(in.RoomID), UserId: id.UserID, Nickname: id.Nickname,
	})
	if err != nil {
		return nil, a.refuse(ctx, "reservePermit", err)
	}
	return &reserveOutput{Body: permitAnswer{
		Permit:     resp.GetPermit(),
		RoomID:     resp.GetRoomId(),
		UserID:     resp.GetUserId(),
		ExpireTime: wire.FormatTime(resp.GetExpireTime().AsTime()),
		TTLSeconds: resp.GetTtl().AsDuration().Seconds(),
		URL:        "/chat?permit=" + url.QueryEscape(resp.GetPermit()),
	}}, nil
}

// cancelPermit responds with 204 also to what cannot be a permit of this room, since that
// holds no seat there.
func (a *api) cancelPermit(ctx context.Context, in *cancelInput) (*struct{}, error) {
	roomID, _, err := wire.SplitPermit(in.Permit)
	if err == nil && roomID == string(in.RoomID) {
		_, err = a.Rooms.CancelPermit(ctx, &roomv1.CancelPermitRequest{RoomId: roomID, Permit: in.Permit})
	}
	if err == nil || gone(err) {
		return nil, nil
	}
	return nil, a.refuse(ctx, "cancelPermit", err)
}

// gone reports whether err says that there is no such permit (any more), or no such room.
func gone(err error) bool {
	return errors.Is(err, &wire.Error{Code: wire.PermitExpired}) || errors.Is(err, &wire.Error{Code: wire.RoomNotFound})
}
