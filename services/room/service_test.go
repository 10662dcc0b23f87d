package room_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/anteroom-chat/anteroom/pkg/pipeline"
	"github.com/anteroom-chat/anteroom/pkg/redistest"
	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
	"github.com/anteroom-chat/anteroom/services/room"
	"github.com/anteroom-chat/anteroom/services/room/redisstore"
)

// fixture is a service over the embedded store.
type fixture struct {
	*testing.T
	*room.Service
	ctx  context.Context
	read func(roomID string) roomlog.Range
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	t.Parallel()
	rdb := redistest.Client(t, "redis://"+redistest.Embedded(t).Addr())
	layout := roomlog.Layout{Partitions: 4}
	scripts := pipeline.New(rdb)
	t.Cleanup(scripts.Close)
	publisher := roomlog.NewPublisher(scripts, layout)
	return &fixture{
		T: t, Service: room.NewService(redisstore.New(rdb, scripts, layout), publisher), ctx: t.Context(),
		read: func(roomID string) roomlog.Range {
			r, err := roomlog.Read(t.Context(), rdb, layout, roomID, 1, 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			return r
		},
	}
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) create(req *roomv1.CreateRoomRequest) *roomv1.Room {
	f.Helper()
	resp, err := f.CreateRoom(f.ctx, req)
	f.must(err)
	return resp.GetRoom()
}

func (f *fixture) refused(what string, err error, code wire.Code) {
	f.Helper()
	if refusal, ok := errors.AsType[*wire.Error](err); !ok || refusal.Code != code {
		f.Errorf("%s: error %v; want %s", what, err, code)
	}
}

func seconds(n int32) *int32 { return &n }

const (
	longID = "0123456789012345678901234567890123456789012345678901234567890123" // 64
	notID  = "a b"
)

func TestEveryFieldOutsideItsLimitsIsABadRequest(t *testing.T) {
	f := newFixture(t)
	f.create(&roomv1.CreateRoomRequest{RoomId: "r", Capacity: 3})
	create := func(change func(*roomv1.CreateRoomRequest)) func() error {
		return func() error {
			req := &roomv1.CreateRoomRequest{Capacity: 3}
			change(req)
			_, err := f.CreateRoom(f.ctx, req)
			return err
		}
	}
	reserve := func(roomID, user, nick string) func() error {
		return func() error {
			_, err := f.ReservePermit(f.ctx, &roomv1.ReservePermitRequest{RoomId: roomID, UserId: user, Nickname: nick})
			return err
		}
	}
	confirm := func(change func(*roomv1.ConfirmJoinRequest)) func() error {
		return func() error {
			req := &roomv1.ConfirmJoinRequest{RoomId: "r", UserId: "u", SessionId: "s", GatewayId: "g"}
			change(req)
			_, err := f.ConfirmJoin(f.ctx, req)
			return err
		}
	}
	renew := func(gateway string, sessions ...*roomv1.SessionRef) func() error {
		return func() error {
			_, err := f.RenewLeases(f.ctx, &roomv1.RenewLeasesRequest{GatewayId: gateway, Sessions: sessions})
			return err
		}
	}
	leave := func(roomID, session string, reason roomv1.LeaveReason) func() error {
		return func() error {
			_, err := f.Leave(f.ctx, &roomv1.LeaveRequest{RoomId: roomID, SessionId: session, Reason: reason})
			return err
		}
	}
	publish := func(roomID, id string, body *structpb.Value) func() error {
		return func() error {
			_, err := f.Publish(f.ctx, &roomv1.PublishRequest{RoomId: roomID, MessageId: id, Body: body})
			return err
		}
	}
	list := func(size int32, token string) func() error {
		return func() error {
			_, err := f.ListRooms(f.ctx, &roomv1.ListRoomsRequest{PageSize: size, PageToken: token})
			return err
		}
	}
	one := structpb.NewNumberValue(1)
	for what, call := range map[string]func() error{
		"create: room id with a space":      create(func(r *roomv1.CreateRoomRequest) { r.RoomId = notID }),
		"create: room id of 65":             create(func(r *roomv1.CreateRoomRequest) { r.RoomId = longID + "x" }),
		"create: room id not ASCII":         create(func(r *roomv1.CreateRoomRequest) { r.RoomId = "é" }),
		"create: room id with braces":       create(func(r *roomv1.CreateRoomRequest) { r.RoomId = "{p1}" }),
		"create: title of 101":              create(func(r *roomv1.CreateRoomRequest) { r.Title = strings.Repeat("é", 101) }),
		"create: title with a newline":      create(func(r *roomv1.CreateRoomRequest) { r.Title = "a\nb" }),
		"create: title not UTF-8":           create(func(r *roomv1.CreateRoomRequest) { r.Title = "\xff" }),
		"create: capacity 0":                create(func(r *roomv1.CreateRoomRequest) { r.Capacity = 0 }),
		"create: capacity -1":               create(func(r *roomv1.CreateRoomRequest) { r.Capacity = -1 }),
		"create: capacity 100,001":          create(func(r *roomv1.CreateRoomRequest) { r.Capacity = 100_001 }),
		"create: presence 9":                create(func(r *roomv1.CreateRoomRequest) { r.Presence = 9 }),
		"create: presence full above 1,000": create(func(r *roomv1.CreateRoomRequest) { r.Presence = roomv1.Presence_PRESENCE_FULL; r.Capacity = 1001 }),
		"create: empty timeout 0":           create(func(r *roomv1.CreateRoomRequest) { r.EmptyTimeoutSeconds = seconds(0) }),
		"create: empty timeout 86,401":      create(func(r *roomv1.CreateRoomRequest) { r.EmptyTimeoutSeconds = seconds(86_401) }),
		"create: departure timeout -1":      create(func(r *roomv1.CreateRoomRequest) { r.DepartureTimeoutSeconds = seconds(-1) }),
		"create: departure timeout 86,401":  create(func(r *roomv1.CreateRoomRequest) { r.DepartureTimeoutSeconds = seconds(86_401) }),
		"create: request id with a space":   create(func(r *roomv1.CreateRoomRequest) { r.RequestId = notID }),
		"get: no room id":                   func() error { _, err := f.GetRoom(f.ctx, &roomv1.GetRoomRequest{}); return err },
		"delete: no room id":                func() error { _, err := f.DeleteRoom(f.ctx, &roomv1.DeleteRoomRequest{}); return err },
		"list: page size -1":                list(-1, ""),
		"list: page size 101":               list(101, ""),
		"list: made-up token":               list(0, "made-up"),
		"list: token too long":              list(0, strings.Repeat("a", 257)),
		"reserve: no room id":               reserve("", "u", ""),
		"reserve: no user":                  reserve("r", "", ""),
		"reserve: user system":              reserve("r", "system", ""),
		"reserve: user of 129 bytes":        reserve("r", strings.Repeat("u", 129), ""),
		"reserve: user with a newline":      reserve("r", "a\nb", ""),
		"reserve: nickname of 41":           reserve("r", "u", strings.Repeat("n", 41)),
		"reserve: nickname with a tab":      reserve("r", "u", "a\tb"),
		"cancel: no room id":                func() error { _, err := f.CancelPermit(f.ctx, &roomv1.CancelPermitRequest{}); return err },
		"cancel: no permit":                 func() error { _, err := f.CancelPermit(f.ctx, &roomv1.CancelPermitRequest{RoomId: "r"}); return err },
		"confirm: room id":                  confirm(func(r *roomv1.ConfirmJoinRequest) { r.RoomId = notID }),
		"confirm: no session":               confirm(func(r *roomv1.ConfirmJoinRequest) { r.SessionId = "" }),
		"confirm: session with a newline":   confirm(func(r *roomv1.ConfirmJoinRequest) { r.SessionId = "a\nb" }),
		"confirm: deadline that is no time": confirm(func(r *roomv1.ConfirmJoinRequest) { r.Deadline = &timestamppb.Timestamp{Nanos: -1} }),
		"confirm: no gateway":               confirm(func(r *roomv1.ConfirmJoinRequest) { r.GatewayId = "" }),
		"confirm: walk-in without user":     confirm(func(r *roomv1.ConfirmJoinRequest) { r.UserId = "" }),
		"confirm: bad user beside permit":   confirm(func(r *roomv1.ConfirmJoinRequest) { r.UserId = "system"; r.Permit = "r.x" }),
		"confirm: nickname":                 confirm(func(r *roomv1.ConfirmJoinRequest) { r.Nickname = "a\x00" }),
		"renew: no gateway":                 renew(""),
		"renew: room id":                    renew("g", &roomv1.SessionRef{RoomId: notID, SessionId: "s"}),
		"renew: no session":                 renew("g", &roomv1.SessionRef{RoomId: "r"}),
		"renew: nothing named":              renew("g", nil),
		"renew: sent at no time": func() error {
			_, err := f.RenewLeases(f.ctx, &roomv1.RenewLeasesRequest{GatewayId: "g", SentTime: &timestamppb.Timestamp{Nanos: -1}})
			return err
		},
		"renew: 10,001 sessions":            renew("g", make([]*roomv1.SessionRef, 10_001)...),
		"leave: no session":                 leave("r", "", 0),
		"leave: room id":                    leave(notID, "s", 0),
		"leave: reason 9":                   leave("r", "s", 9),
		"remove: no user":                   func() error { _, err := f.RemoveMember(f.ctx, &roomv1.RemoveMemberRequest{RoomId: "r"}); return err },
		"publish: room id":                  publish(notID, "", one),
		"publish: message id of 65":         publish("r", strings.Repeat("é", 65), one),
		"publish: no body":                  publish("r", "", nil),
		"publish: empty body":               publish("r", "", &structpb.Value{}),
		"publish: body not a number":        publish("r", "", structpb.NewNumberValue(math.NaN())),
		"publish: infinite body":            publish("r", "", structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{structpb.NewNumberValue(math.Inf(1))}})),
		"publish: body with an empty value": publish("r", "", structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{{}, nil}})),
		"publish: body too large":           publish("r", "", structpb.NewStringValue(strings.Repeat("x", wire.DefaultFrameBytes))),
	} {
		f.refused(what, call(), wire.BadRequest)
	}
}

func TestLimitsThemselvesAreAllowed(t *testing.T) {
	f := newFixture(t)
	r := f.create(&roomv1.CreateRoomRequest{
		RoomId: longID, Title: strings.Repeat("é", 100), Capacity: wire.MaxCapacity, RequestId: longID,
		EmptyTimeoutSeconds: seconds(86_400), DepartureTimeoutSeconds: seconds(86_400),
	})
	if r.GetRoomId() != longID || r.GetTitle() != strings.Repeat("é", 100) || r.GetCapacity() != 100_000 || r.GetPresence() != roomv1.Presence_PRESENCE_COUNT {
		f.Fatalf("%v", r)
	}
	user, nick := strings.Repeat("u", 128), strings.Repeat("é", 40)
	permit, err := f.ReservePermit(f.ctx, &roomv1.ReservePermitRequest{RoomId: longID, UserId: user, Nickname: nick})
	f.must(err)
	joined, err := f.ConfirmJoin(f.ctx, &roomv1.ConfirmJoinRequest{RoomId: longID, Permit: permit.GetPermit(), UserId: user, SessionId: longID, GatewayId: longID})
	f.must(err)
	if joined.GetMember().GetUserId() != user || joined.GetMember().GetNickname() != nick || joined.GetLease().AsDuration() != wire.Lease {
		f.Fatalf("%v", joined)
	}
}

func TestARoomGetsDefaults(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct {
		capacity int32
		asked    roomv1.Presence
		want     roomv1.Presence
	}{
		{1, 0, roomv1.Presence_PRESENCE_FULL},
		{256, 0, roomv1.Presence_PRESENCE_FULL},
		{257, 0, roomv1.Presence_PRESENCE_COUNT},
		{1000, roomv1.Presence_PRESENCE_FULL, roomv1.Presence_PRESENCE_FULL},
		{1, roomv1.Presence_PRESENCE_COUNT, roomv1.Presence_PRESENCE_COUNT},
		{100_000, roomv1.Presence_PRESENCE_COUNT, roomv1.Presence_PRESENCE_COUNT},
	} {
		r := f.create(&roomv1.CreateRoomRequest{Capacity: c.capacity, Presence: c.asked})
		if r.GetPresence() != c.want {
			f.Errorf("capacity %d, asked %v: %v", c.capacity, c.asked, r.GetPresence())
		}
		if wire.CheckID("roomId", r.GetRoomId()) != nil || r.GetEpoch() == "" || time.Since(r.GetCreateTime().AsTime()).Abs() > time.Minute {
			f.Errorf("%v", r)
		}
	}
}

func TestARepeatedCreateAnswersWithTheFirstOnesRoom(t *testing.T) {
	f := newFixture(t)
	req := &roomv1.CreateRoomRequest{Capacity: 3, RequestId: "q1"}
	first := f.create(req)
	if again := f.create(req); again.GetEpoch() != first.GetEpoch() || again.GetRoomId() != first.GetRoomId() {
		f.Fatalf("%v, then %v", first, again)
	}
	_, err := f.CreateRoom(f.ctx, &roomv1.CreateRoomRequest{RoomId: first.GetRoomId(), Capacity: 3, RequestId: "q2"})
	f.refused("another request", err, wire.RoomExists)
}

func TestPagesHaveTwentyRoomsUnlessAsked(t *testing.T) {
	f := newFixture(t)
	for range 25 {
		f.create(&roomv1.CreateRoomRequest{Capacity: 1})
	}
	for size, want := range map[int32]int{0: 20, 1: 1, 24: 24, 25: 25, 100: 25} {
		resp, err := f.ListRooms(f.ctx, &roomv1.ListRoomsRequest{PageSize: size})
		f.must(err)
		if len(resp.GetRooms()) != want || (resp.GetNextPageToken() == "") != (want == 25) {
			f.Errorf("size %d: %d rooms, next %q", size, len(resp.GetRooms()), resp.GetNextPageToken())
		}
	}
}

func TestPermitsThatCannotBeOnesOfTheRoomAreExpired(t *testing.T) {
	f := newFixture(t)
	f.create(&roomv1.CreateRoomRequest{RoomId: "r", Capacity: 3})
	for _, permit := range []string{"x", "r.", ".x", "r.made-up", "other.made-up", "r.a b", "r." + longID + "x", "r.a.b"} {
		_, err := f.ConfirmJoin(f.ctx, &roomv1.ConfirmJoinRequest{RoomId: "r", Permit: permit, SessionId: "s", GatewayId: "g"})
		f.refused(permit, err, wire.PermitExpired)
		_, err = f.CancelPermit(f.ctx, &roomv1.CancelPermitRequest{RoomId: "r", Permit: permit})
		f.must(err)
	}
}

func TestCallsOnNoRoom(t *testing.T) {
	f := newFixture(t)
	_, err := f.GetRoom(f.ctx, &roomv1.GetRoomRequest{RoomId: "r"})
	f.refused("get", err, wire.RoomNotFound)
	_, err = f.DeleteRoom(f.ctx, &roomv1.DeleteRoomRequest{RoomId: "r"})
	f.refused("delete", err, wire.RoomNotFound)
	_, err = f.RemoveMember(f.ctx, &roomv1.RemoveMemberRequest{RoomId: "r", UserId: "u"})
	f.refused("remove", err, wire.RoomNotFound)
	_, err = f.Publish(f.ctx, &roomv1.PublishRequest{RoomId: "r", Body: structpb.NewNullValue()})
	f.refused("publish", err, wire.RoomNotFound)
	_, err = f.Leave(f.ctx, &roomv1.LeaveRequest{RoomId: "r", SessionId: "s"})
	f.must(err)
	resp, err := f.RenewLeases(f.ctx, &roomv1.RenewLeasesRequest{GatewayId: "g", Sessions: []*roomv1.SessionRef{{RoomId: "r", SessionId: "s"}}})
	f.must(err)
	if len(resp.GetLost()) != 1 || resp.GetLost()[0].GetCause() != roomv1.LostSession_CAUSE_ROOM_GONE || resp.GetLost()[0].GetSessionId() != "s" {
		f.Errorf("%v", resp)
	}
}

func TestLeaveSaysItsReason(t *testing.T) {
	f := newFixture(t)
	f.create(&roomv1.CreateRoomRequest{RoomId: "r", Capacity: 3, DepartureTimeoutSeconds: seconds(60)})
	want := map[roomv1.LeaveReason]string{0: "LEFT", roomv1.LeaveReason_LEAVE_REASON_LEFT: "LEFT", roomv1.LeaveReason_LEAVE_REASON_LOST: "LOST"}
	for reason, name := range want {
		session := "s" + reason.String()
		_, err := f.ConfirmJoin(f.ctx, &roomv1.ConfirmJoinRequest{RoomId: "r", UserId: "u", SessionId: session, GatewayId: "g"})
		f.must(err)
		_, err = f.Leave(f.ctx, &roomv1.LeaveRequest{RoomId: "r", SessionId: session, Reason: reason})
		f.must(err)
		entries := f.read("r").Entries
		var frame wire.ServerFrame
		f.must(json.Unmarshal(entries[len(entries)-1].Frame, &frame))
		if frame.Type != wire.TypeMemberLeft || frame.Reason != name {
			f.Errorf("%v: %+v", reason, frame)
		}
	}
}

func TestWhatTheApplicationPublishesIsAMessageFrameOfSystem(t *testing.T) {
	f := newFixture(t)
	f.create(&roomv1.CreateRoomRequest{RoomId: "r", Capacity: 3})
	for _, body := range []string{
		`null`, `true`, `false`, `0`, `-1.5`, `1e+21`, `""`, `"</script>\u2028\n\"é☃"`, `[]`, `{}`, `[1,[2,{"a":null}]]`, `{"type":"JOIN","seq":7}`,
	} {
		var value structpb.Value
		f.must(value.UnmarshalJSON([]byte(body)))
		id := `id "` + body[:1] + `"` + string(rune('a'+len(body)))
		resp, err := f.Publish(f.ctx, &roomv1.PublishRequest{RoomId: "r", MessageId: id, Body: &value})
		f.must(err)
		entries := f.read("r").Entries
		last := entries[len(entries)-1]
		var frame wire.ServerFrame
		if err := json.Unmarshal(last.Frame, &frame); err != nil {
			f.Fatalf("%s: %v", last.Frame, err)
		}
		var got, want any
		f.must(json.Unmarshal(frame.Body, &got))
		f.must(json.Unmarshal([]byte(body), &want))
		if diff := cmp.Diff(want, got); diff != "" {
			f.Errorf("%s: %s", body, diff)
		}
		if frame.Type != wire.TypeMessage || frame.From.UserID != "system" || frame.ID != id || frame.Seq != resp.GetSeq() || resp.GetSeq() != last.Seq {
			f.Errorf("%s, answered with seq %d", last.Frame, resp.GetSeq())
		}
	}
}

func TestTheLimitOfABodyCountsItsCharactersAsTheyAreSent(t *testing.T) {
	f := newFixture(t)
	f.create(&roomv1.CreateRoomRequest{RoomId: "r", Capacity: 3})
	for _, c := range []struct {
		text string
		ok   bool
	}{
		{strings.Repeat("<&>", 4000), true}, {strings.Repeat("x", wire.DefaultFrameBytes-2), true}, {strings.Repeat("x", wire.DefaultFrameBytes-1), false},
	} {
		_, err := f.Publish(f.ctx, &roomv1.PublishRequest{RoomId: "r", Body: structpb.NewStringValue(c.text)})
		if c.ok != (err == nil) || !c.ok && !errors.Is(err, &wire.Error{Code: wire.BadRequest}) {
			f.Errorf("%d characters %.3q: %v", len(c.text), c.text, err)
		}
	}
}

func TestARepeatedPublishIsDeliveredOnce(t *testing.T) {
	f := newFixture(t)
	f.create(&roomv1.CreateRoomRequest{RoomId: "r", Capacity: 3})
	req := &roomv1.PublishRequest{RoomId: "r", MessageId: "m1", Body: structpb.NewNumberValue(1)}
	for range 3 {
		resp, err := f.Publish(f.ctx, req)
		f.must(err)
		if resp.GetSeq() != 1 {
			f.Fatalf("%v", resp)
		}
	}
	if n := len(f.read("r").Entries); n != 1 {
		f.Fatalf("%d entries", n)
	}
}
