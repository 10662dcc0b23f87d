// Package redisstore keeps the permit rules in Redis. Each operation is one short script
// (lua/). Package roomlog names the keys.
package redisstore

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/pipeline"
	"github.com/anteroom-chat/anteroom/pkg/redisdb"
	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/room"
)

//go:embed lua
var sources embed.FS

// script builds the script of one operation on a room.
func script(name string) *pipeline.Script {
	return pipeline.NewScript(roomlog.BeginLua+roomlog.EntryLua+source("ages")+source("lib"), "begin(KEYS, ARGV)\n"+source(name))
}

func source(name string) string {
	src, err := sources.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic(err) // cannot happen: the files are embedded
	}
	return string(src)
}

var (
	createScript  = script("create")
	getScript     = script("get")
	deleteScript  = script("delete")
	reserveScript = script("reserve")
	cancelScript  = script("cancel")
	confirmScript = script("confirm")
	leaveScript   = script("leave")
	removeScript  = script("remove")
	expireScript  = script("expire")
	renewScript   = pipeline.NewScript(roomlog.BeginLua, source("renew"))
	dueScript     = pipeline.NewScript(roomlog.BeginLua+source("ages"), source("due"))
)

// Store is a room.Store in Redis.
type Store struct {
	rdb     pipeline.Redis
	scripts *pipeline.Runner // on rdb
	layout  roomlog.Layout
	rules   room.Rules
}

var _ room.Store = (*Store)(nil)

// New makes a store with the contract's rules. scripts must run on rdb. The caller must close
// both.
func New(rdb pipeline.Redis, scripts *pipeline.Runner, layout roomlog.Layout) *Store {
	return NewWithRules(rdb, scripts, layout, room.DefaultRules())
}

// NewWithRules makes a store with other rules.
func NewWithRules(rdb pipeline.Redis, scripts *pipeline.Runner, layout roomlog.Layout, rules room.Rules) *Store {
	return &Store{rdb: rdb, scripts: scripts, layout: layout, rules: rules}
}

// run runs a room's script. It returns what follows the status 'OK', or the refusal that
// another status stands for.
func (s *Store) run(ctx context.Context, sc *pipeline.Script, roomID string, args ...any) ([]any, error) {
	keys := s.layout.Keys(roomID).All()
	answer, err := s.scripts.Run(ctx, sc, keys, append([]any{roomID}, args...)...).Slice()
	if err != nil {
		return nil, redisdb.Fault("room store", err)
	}
	status, _ := answer[0].(string)
	return answer[1:], refusal(status, roomID)
}

func refusal(status, roomID string) error {
	switch status {
	case "OK":
		return nil
	case "ROOM_NOT_FOUND":
		return wire.Errorf(wire.RoomNotFound, "there is no room %q", roomID)
	case "ROOM_EXISTS":
		return wire.Errorf(wire.RoomExists, "there is a room %q already", roomID)
	case "ROOM_FULL":
		return wire.Errorf(wire.RoomFull, "every seat of room %q is taken", roomID)
	case "PERMIT_EXPIRED":
		return wire.Errorf(wire.PermitExpired, "the permit lapsed, was used, or is not of room %q", roomID)
	case "FORBIDDEN":
		return wire.Errorf(wire.Forbidden, "the permit or the session is another user's, or this is a walk-in without a seat of its own, which gets none here")
	case "LATE":
		return wire.Errorf(wire.Unavailable, "the call was held up for too long, and not carried out")
	case "SPENT":
		return wire.Errorf(wire.PermitExpired, "this session has ended")
	}
	return fmt.Errorf("room store: unknown status %q", status)
}

// Create makes a room.
func (s *Store) Create(ctx context.Context, spec room.Spec) (room.Room, error) {
	a, err := s.run(ctx, createScript, spec.ID, spec.Epoch, spec.Title, spec.Capacity, string(spec.Presence),
		int(spec.EmptyTimeout/time.Second), int(spec.DepartureTimeout/time.Second), spec.RequestID)
	if err != nil {
		return room.Room{}, err
	}
	return described(spec.ID, a)
}

// Get returns a room with its counts.
func (s *Store) Get(ctx context.Context, roomID string) (room.Room, error) {
	a, err := s.run(ctx, getScript, roomID)
	if err != nil {
		return room.Room{}, err
	}
	return described(roomID, a)
}

// Delete deletes a room.
func (s *Store) Delete(ctx context.Context, roomID, requestID string) error {
	_, err := s.run(ctx, deleteScript, roomID, requestID)
	return err
}

// described decodes the result of describe in lib.lua.
func described(roomID string, a []any) (room.Room, error) {
	if len(a) < 8 {
		return room.Room{}, fmt.Errorf("room store: %d fields of a room", len(a))
	}
	text := func(i int) string { v, _ := a[i].(string); return v }
	number := func(i int) int64 { v, _ := a[i].(int64); return v }
	return room.Room{
		ID: roomID, Epoch: text(0), Title: text(1), Capacity: int(number(2)),
		Presence: room.Presence(text(3)), CreateTime: time.UnixMilli(number(4)).UTC(),
		Reserved: int(number(5)), Occupied: int(number(6)), Seq: number(7),
	}, nil
}

// Reserve reserves a seat.
func (s *Store) Reserve(ctx context.Context, roomID string, m wire.Member, secret string) (room.Permit, error) {
	head, rest := memberParts(m)
	a, err := s.run(ctx, reserveScript, roomID, m.UserID, head, rest, secret, s.rules.PermitTTL.Milliseconds())
	if err != nil {
		return room.Permit{}, err
	}
	token, ok1 := a[0].(string)
	deadline, ok2 := a[1].(int64)
	if !ok1 || !ok2 {
		return room.Permit{}, fmt.Errorf("room store: reserve answered %v", a)
	}
	return room.Permit{
		Token:      wire.JoinPermit(roomID, token),
		ExpireTime: time.UnixMilli(deadline).UTC(),
		TTL:        s.rules.PermitTTL,
	}, nil
}

// Cancel gives a permit back.
func (s *Store) Cancel(ctx context.Context, roomID, secret string) error {
	_, err := s.run(ctx, cancelScript, roomID, secret)
	return err
}

// Confirm puts a session in a seat.
func (s *Store) Confirm(ctx context.Context, j room.Join) (room.Joined, error) {
	head, rest := memberParts(j.Member)
	a, err := s.run(ctx, confirmScript, j.RoomID, j.Session, j.Gateway, j.Permit, j.Member.UserID,
		head, rest, j.OwnSeatOnly, s.rules.Lease.Milliseconds(), millis(j.Deadline))
	if err != nil {
		return room.Joined{}, err
	}
	r, err := described(j.RoomID, a)
	if err != nil {
		return room.Joined{}, err
	}
	joined := room.Joined{Room: r}
	values := a[8:]
	if joined.Member, err = sessionMember(values[0]); err != nil {
		return room.Joined{}, err
	}
	for _, v := range values[1:] {
		m, err := sessionMember(v)
		if err != nil {
			return room.Joined{}, err
		}
		joined.Members = append(joined.Members, m)
	}
	return joined, nil
}

// millis formats a time for scripts; the zero time becomes the empty string.
func millis(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return strconv.FormatInt(t.UnixMilli(), 10)
}

// memberParts returns a member's JSON in two parts, so that a script can put another nickname
// in between.
func memberParts(m wire.Member) (head, rest string) {
	head = `{"userId":` + string(wire.Quote(m.UserID))
	if m.Nickname != "" {
		rest = `,"nickname":` + string(wire.Quote(m.Nickname))
	}
	return head, rest
}

// sessionMember decodes the member in the value of a session, which has a line each for user,
// gateway and member.
func sessionMember(value any) (m wire.Member, err error) {
	v, _ := value.(string)
	text := v[strings.LastIndexByte(v, '\n')+1:]
	// memberParts wrote this JSON, so if nothing is escaped, a string ends at the next quote.
	// A roster is decoded at each join, and encoding/json takes ten times as long.
	if rest, ok := strings.CutPrefix(text, `{"userId":"`); ok && !strings.Contains(text, `\`) {
		m.UserID, rest, _ = strings.Cut(rest, `"`)
		if nickname, ok := strings.CutPrefix(rest, `,"nickname":"`); ok {
			m.Nickname, rest, _ = strings.Cut(nickname, `"`)
		}
		if rest == "}" {
			return m, nil
		}
	}
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return m, fmt.Errorf("room store: session %q: %w", v, err)
	}
	return m, nil
}

// Leave gives a seat up.
func (s *Store) Leave(ctx context.Context, roomID, session, reason string, ended bool) error {
	_, err := s.run(ctx, leaveScript, roomID, session, reason, ended)
	return err
}

// Remove takes a user out.
func (s *Store) Remove(ctx context.Context, roomID, user, requestID string) error {
	_, err := s.run(ctx, removeScript, roomID, user, requestID)
	return err
}
