package room

import (
	"cmp"
	"context"
	"crypto/rand"
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
)

// Log takes the messages that the application itself publishes in a room.
type Log interface {
	// PublishWait returns once the message is in the room's log.
	PublishWait(ctx context.Context, m roomlog.Message) (roomlog.Result, error)
}

// Service is the gRPC room service. Its refusals are *wire.Error, which package rpc turns
// into statuses.
type Service struct {
	roomv1.UnimplementedRoomServiceServer
	store Store
	log   Log
}

// NewService makes a service over a store and the log that belongs to it.
func NewService(store Store, log Log) *Service { return &Service{store: store, log: log} }

const (
	maxPageToken = 256 // bytes
	maxRenewals  = 10_000
)

// CreateRoom makes a room.
func (s *Service) CreateRoom(ctx context.Context, req *roomv1.CreateRoomRequest) (*roomv1.CreateRoomResponse, error) {
	spec, err := newSpec(req)
	if err != nil {
		return nil, err
	}
	r, err := s.store.Create(ctx, spec)
	if err != nil {
		return nil, err
	}
	return &roomv1.CreateRoomResponse{Room: r.proto()}, nil
}

// newSpec checks a request and fills in the defaults.
func newSpec(req *roomv1.CreateRoomRequest) (Spec, error) {
	empty, departure := int32(wire.DefaultEmptySeconds), req.GetDepartureTimeoutSeconds()
	if req.EmptyTimeoutSeconds != nil {
		empty = req.GetEmptyTimeoutSeconds()
	}
	if err := cmp.Or(
		optionalID("roomId", req.GetRoomId()),
		wire.CheckText("title", req.GetTitle(), wire.MaxTitleLen),
		wire.CheckRange("capacity", int(req.GetCapacity()), 1, wire.MaxCapacity),
		wire.CheckRange("emptyTimeoutSeconds", int(empty), 1, wire.MaxTimeoutSeconds),
		wire.CheckRange("departureTimeoutSeconds", int(departure), 0, wire.MaxTimeoutSeconds),
		optionalID("requestId", req.GetRequestId()),
	); err != nil {
		return Spec{}, err
	}
	presence, err := choosePresence(req.GetPresence(), int(req.GetCapacity()))
	if err != nil {
		return Spec{}, err
	}
	id := req.GetRoomId()
	if id == "" {
		if id = req.GetRequestId(); id == "" {
			id = strings.ToLower(rand.Text())
		}
	}
	return Spec{
		ID: id, Epoch: rand.Text()[:16], Title: req.GetTitle(), Capacity: int(req.GetCapacity()), Presence: presence,
		EmptyTimeout:     time.Duration(empty) * time.Second,
		DepartureTimeout: time.Duration(departure) * time.Second,
		RequestID:        req.GetRequestId(),
	}, nil
}

func optionalID(field, s string) error {
	if s == "" {
		return nil
	}
	return wire.CheckID(field, s)
}

func choosePresence(p roomv1.Presence, capacity int) (Presence, error) {
	switch p {
	case roomv1.Presence_PRESENCE_UNSPECIFIED:
		if capacity <= wire.DefaultFullUpTo {
			return PresenceFull, nil
		}
		return PresenceCount, nil
	case roomv1.Presence_PRESENCE_FULL:
		if capacity > wire.MaxFullPresence {
			return "", wire.Errorf(wire.BadRequest, "presence full goes up to capacity %d", wire.MaxFullPresence)
		}
		return PresenceFull, nil
	case roomv1.Presence_PRESENCE_COUNT:
		return PresenceCount, nil
	}
	return "", wire.Errorf(wire.BadRequest, "presence is full or count")
}

// GetRoom returns a room with its counts.
func (s *Service) GetRoom(ctx context.Context, req *roomv1.GetRoomRequest) (*roomv1.GetRoomResponse, error) {
	if err := wire.CheckID("roomId", req.GetRoomId()); err != nil {
		return nil, err
	}
	r, err := s.store.Get(ctx, req.GetRoomId())
	if err != nil {
		return nil, err
	}
	return &roomv1.GetRoomResponse{Room: r.proto()}, nil
}

// ListRooms returns a page of the rooms.
func (s *Service) ListRooms(ctx context.Context, req *roomv1.ListRoomsRequest) (*roomv1.ListRoomsResponse, error) {
	size := int(req.GetPageSize())
	if size == 0 {
		size = wire.DefaultPageSize
	}
	if err := wire.CheckRange("pageSize", size, 1, wire.MaxPageSize); err != nil {
		return nil, err
	}
	if len(req.GetPageToken()) > maxPageToken {
		return nil, wire.Errorf(wire.BadRequest, "pageToken is not one that was given out")
	}
	rooms, next, err := s.store.List(ctx, size, req.GetPageToken())
	if err != nil {
		return nil, err
	}
	resp := &roomv1.ListRoomsResponse{NextPageToken: next}
	for _, r := range rooms {
		resp.Rooms = append(resp.Rooms, r.proto())
	}
	return resp, nil
}

// DeleteRoom deletes a room.
func (s *Service) DeleteRoom(ctx context.Context, req *roomv1.DeleteRoomRequest) (*roomv1.DeleteRoomResponse, error) {
	if err := cmp.Or(wire.CheckID("roomId", req.GetRoomId()), optionalID("requestId", req.GetRequestId())); err != nil {
		return nil, err
	}
	return &roomv1.DeleteRoomResponse{}, s.store.Delete(ctx, req.GetRoomId(), req.GetRequestId())
}

// ReservePermit reserves a seat.
func (s *Service) ReservePermit(ctx context.Context, req *roomv1.ReservePermitRequest) (*roomv1.ReservePermitResponse, error) {
	if err := cmp.Or(
		wire.CheckID("roomId", req.GetRoomId()),
		wire.CheckUserID(req.GetUserId()),
		wire.CheckText("nickname", req.GetNickname(), wire.MaxNicknameLen),
	); err != nil {
		return nil, err
	}
	p, err := s.store.Reserve(ctx, req.GetRoomId(), wire.Member{UserID: req.GetUserId(), Nickname: req.GetNickname()}, rand.Text())
	if err != nil {
		return nil, err
	}
	return &roomv1.ReservePermitResponse{
		Permit: p.Token, RoomId: req.GetRoomId(), UserId: req.GetUserId(),
		ExpireTime: timestamppb.New(p.ExpireTime), Ttl: durationpb.New(p.TTL),
	}, nil
}

// CancelPermit gives a permit back.
func (s *Service) CancelPermit(ctx context.Context, req *roomv1.CancelPermitRequest) (*roomv1.CancelPermitResponse, error) {
	if err := wire.CheckID("roomId", req.GetRoomId()); err != nil {
		return nil, err
	}
	if req.GetPermit() == "" {
		return nil, wire.Errorf(wire.BadRequest, "permit is required")
	}
	// A permit that cannot be one of this room counts as gone.
	var failure error
	if roomID, secret, err := wire.SplitPermit(req.GetPermit()); err == nil && roomID == req.GetRoomId() {
		failure = s.store.Cancel(ctx, roomID, secret)
	}
	return &roomv1.CancelPermitResponse{}, failure
}

// ConfirmJoin puts a session in a seat.
func (s *Service) ConfirmJoin(ctx context.Context, req *roomv1.ConfirmJoinRequest) (*roomv1.ConfirmJoinResponse, error) {
	join, err := newJoin(req)
	if err != nil {
		return nil, err
	}
	joined, err := s.store.Confirm(ctx, join)
	if err != nil {
		return nil, err
	}
	resp := &roomv1.ConfirmJoinResponse{
		Room: joined.Room.proto(), Seq: joined.Room.Seq,
		Member: memberProto(joined.Member), Lease: durationpb.New(wire.Lease),
	}
	for _, m := range joined.Members {
		resp.Members = append(resp.Members, memberProto(m))
	}
	return resp, nil
}

func newJoin(req *roomv1.ConfirmJoinRequest) (Join, error) {
	j := Join{
		RoomID: req.GetRoomId(), Session: req.GetSessionId(), Gateway: req.GetGatewayId(),
		Member:      wire.Member{UserID: req.GetUserId(), Nickname: req.GetNickname()},
		OwnSeatOnly: req.GetOwnSeatOnly(),
	}
	if err := cmp.Or(
		wire.CheckID("roomId", j.RoomID),
		wire.CheckID("sessionId", j.Session),
		wire.CheckID("gatewayId", j.Gateway),
		wire.CheckText("nickname", j.Member.Nickname, wire.MaxNicknameLen),
	); err != nil {
		return Join{}, err
	}
	var err error
	if j.Deadline, err = timeOf("deadline", req.GetDeadline()); err != nil {
		return Join{}, err
	}
	if req.GetPermit() == "" || j.Member.UserID != "" {
		if err := wire.CheckUserID(j.Member.UserID); err != nil {
			return Join{}, err
		}
	}
	if req.GetPermit() != "" {
		roomID, secret, err := wire.SplitPermit(req.GetPermit())
		if err != nil {
			return Join{}, err
		}
		if roomID != j.RoomID {
			return Join{}, wire.Errorf(wire.PermitExpired, "the permit is not of room %q", j.RoomID)
		}
		j.Permit = secret
	}
	return j, nil
}

// timeOf returns a field's time, or the zero time if it is not set.
func timeOf(field string, t *timestamppb.Timestamp) (time.Time, error) {
	if t == nil {
		return time.Time{}, nil
	}
	if err := t.CheckValid(); err != nil {
		return time.Time{}, wire.Errorf(wire.BadRequest, "%s is no time", field)
	}
	return t.AsTime(), nil
}

// RenewLeases renews the leases of many sessions.
func (s *Service) RenewLeases(ctx context.Context, req *roomv1.RenewLeasesRequest) (*roomv1.RenewLeasesResponse, error) {
	if err := cmp.Or(
		wire.CheckID("gatewayId", req.GetGatewayId()),
		wire.CheckRange("number of sessions", len(req.GetSessions()), 0, maxRenewals),
	); err != nil {
		return nil, err
	}
	leases := make([]SessionRef, len(req.GetSessions()))
	for i, ref := range req.GetSessions() {
		if err := cmp.Or(wire.CheckID("roomId", ref.GetRoomId()), wire.CheckID("sessionId", ref.GetSessionId())); err != nil {
			return nil, err
		}
		leases[i] = SessionRef{RoomID: ref.GetRoomId(), Session: ref.GetSessionId(), Epoch: ref.GetEpoch()}
	}
	sent, err := timeOf("sentTime", req.GetSentTime())
	if err != nil {
		return nil, err
	}
	lost, sooner, err := s.store.Renew(ctx, leases, sent)
	if err != nil {
		return nil, err
	}
	resp := &roomv1.RenewLeasesResponse{Lease: durationpb.New(max(0, wire.Lease-sooner))}
	for _, l := range lost {
		resp.Lost = append(resp.Lost, &roomv1.LostSession{
			RoomId: leases[l.Index].RoomID, SessionId: leases[l.Index].Session, Cause: causes[l.Cause],
		})
	}
	return resp, nil
}

var causes = map[Cause]roomv1.LostSession_Cause{
	LeaseEnded: roomv1.LostSession_CAUSE_LEASE_ENDED,
	Replaced:   roomv1.LostSession_CAUSE_REPLACED,
	RoomGone:   roomv1.LostSession_CAUSE_ROOM_GONE,
	Removed:    roomv1.LostSession_CAUSE_REMOVED,
}

// Leave gives a seat up.
func (s *Service) Leave(ctx context.Context, req *roomv1.LeaveRequest) (*roomv1.LeaveResponse, error) {
	if err := cmp.Or(wire.CheckID("roomId", req.GetRoomId()), wire.CheckID("sessionId", req.GetSessionId())); err != nil {
		return nil, err
	}
	reason := wire.ReasonLeft
	switch req.GetReason() {
	case roomv1.LeaveReason_LEAVE_REASON_UNSPECIFIED, roomv1.LeaveReason_LEAVE_REASON_LEFT:
	case roomv1.LeaveReason_LEAVE_REASON_LOST:
		reason = wire.ReasonLost
	default:
		return nil, wire.Errorf(wire.BadRequest, "reason is LEFT or LOST")
	}
	return &roomv1.LeaveResponse{}, s.store.Leave(ctx, req.GetRoomId(), req.GetSessionId(), reason, req.GetEnded())
}

// RemoveMember takes a user out of a room.
func (s *Service) RemoveMember(ctx context.Context, req *roomv1.RemoveMemberRequest) (*roomv1.RemoveMemberResponse, error) {
	if err := cmp.Or(
		wire.CheckID("roomId", req.GetRoomId()), wire.CheckUserID(req.GetUserId()), optionalID("requestId", req.GetRequestId()),
	); err != nil {
		return nil, err
	}
	return &roomv1.RemoveMemberResponse{}, s.store.Remove(ctx, req.GetRoomId(), req.GetUserId(), req.GetRequestId())
}

// Publish appends a message from the application to a room's log.
func (s *Service) Publish(ctx context.Context, req *roomv1.PublishRequest) (*roomv1.PublishResponse, error) {
	if err := cmp.Or(
		wire.CheckID("roomId", req.GetRoomId()),
		wire.CheckMessageID("messageId", req.GetMessageId()),
	); err != nil {
		return nil, err
	}
	if req.GetBody().GetKind() == nil {
		return nil, wire.Errorf(wire.BadRequest, "body is required")
	}
	// Not protojson, which adds spaces at random.
	body, err := wire.Marshal(req.GetBody().AsInterface())
	if err != nil || !isJSON(req.GetBody()) {
		return nil, wire.Errorf(wire.BadRequest, "body is not a JSON value")
	}
	if len(body) > wire.DefaultFrameBytes {
		return nil, wire.Errorf(wire.BadRequest, "body is larger than %d bytes", wire.DefaultFrameBytes)
	}
	r, err := s.log.PublishWait(ctx, roomlog.Message{
		RoomID: req.GetRoomId(), User: wire.SystemUser, ID: req.GetMessageId(),
		Tail: wire.MessageTail(wire.Member{UserID: wire.SystemUser}.Encode(), req.GetMessageId(), body),
	})
	if err != nil {
		return nil, err
	}
	return &roomv1.PublishResponse{Seq: r.Seq}, nil
}

// isJSON reports whether a Value can be expressed in JSON. A Value can also hold numbers that
// are not finite, which AsInterface turns into strings, and values without a kind, which
// AsInterface turns into null.
func isJSON(v *structpb.Value) bool {
	switch v.GetKind().(type) {
	case *structpb.Value_NumberValue:
		return !math.IsNaN(v.GetNumberValue()) && !math.IsInf(v.GetNumberValue(), 0)
	case *structpb.Value_ListValue:
		return !slices.ContainsFunc(v.GetListValue().GetValues(), func(v *structpb.Value) bool { return !isJSON(v) })
	case *structpb.Value_StructValue:
		for _, field := range v.GetStructValue().GetFields() {
			if !isJSON(field) {
				return false
			}
		}
	case nil:
		return false
	}
	return true
}

func (r Room) proto() *roomv1.Room {
	presence := roomv1.Presence_PRESENCE_FULL
	if r.Presence == PresenceCount {
		presence = roomv1.Presence_PRESENCE_COUNT
	}
	return &roomv1.Room{
		RoomId: r.ID, Epoch: r.Epoch, Title: r.Title, Capacity: int32(r.Capacity),
		Reserved: int32(r.Reserved), Occupied: int32(r.Occupied),
		Presence: presence, CreateTime: timestamppb.New(r.CreateTime),
	}
}

func memberProto(m wire.Member) *roomv1.Member {
	return &roomv1.Member{UserId: m.UserID, Nickname: m.Nickname}
}
