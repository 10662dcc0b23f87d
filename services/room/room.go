// Package room is the room service: it owns rooms, permits, seats and leases.
//
// A seat of a room is free, reserved by a permit, or occupied by a session:
//
//	free ── ReservePermit ──▶ reserved ── ConfirmJoin ──▶ occupied ── Leave, ──▶ free
//	  ▲                          │                          │  ▲     lease ends
//	  └── CancelPermit, lapse ───┘                          └──┘ ConfirmJoin of the
//	                                                       same user: takeover
//
// A permit lapses after 15 s, a lease 15 s after its last renewal. Each step is one
// atomic script in Redis (package redisstore), so any number of room services work
// side by side. reserved + occupied ≤ capacity holds at every instant; a room whose
// occupancy falls to zero is deleted in the same step.
package room

import (
	"context"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// Presence says whether joins and leaves stand in a room's log.
type Presence string

// The kinds of presence.
const (
	PresenceFull  Presence = "full"  // in the log; members see the roster
	PresenceCount Presence = "count" // not in the log; members see a number
)

// Rules are the periods of the permit rules.
type Rules struct {
	PermitTTL time.Duration // how long a permit lives
	Lease     time.Duration // how long a seat stays occupied without a renewal
}

// DefaultRules are those of the contract; others are for tests that wait for an end.
func DefaultRules() Rules { return Rules{PermitTTL: wire.PermitTTL, Lease: wire.Lease} }

// SentWithin is the error that callers are granted when they tell a time of the store's
// clock: what they tell may be too early by so much.
const SentWithin = time.Second

// Room is a live room as counted at one moment.
type Room struct {
	ID         string
	Epoch      string // tells it from others with the same id
	Title      string
	Capacity   int
	Presence   Presence
	CreateTime time.Time
	Reserved   int
	Occupied   int
	Seq        int64 // of the newest entry of its log
}

// Spec describes a room to be made. All of it has been checked.
type Spec struct {
	ID               string
	Epoch            string
	Title            string
	Capacity         int
	Presence         Presence
	EmptyTimeout     time.Duration // whole seconds
	DepartureTimeout time.Duration // whole seconds
	RequestID        string        // a repeated request answers with the first one's room
}

// Permit is a reserved seat, or a permit for the seat that the user has.
type Permit struct {
	Token      string // "<roomId>.<secret>"
	ExpireTime time.Time
	TTL        time.Duration
}

// Join asks for a seat in the name of a session.
type Join struct {
	RoomID      string
	Permit      string // secret; empty for a walk-in
	Member      wire.Member
	Session     string
	Gateway     string
	OwnSeatOnly bool      // a walk-in may not take a free seat
	Deadline    time.Time // by the store's clock; zero: never too late
}

// Joined is a confirmed join.
type Joined struct {
	Room    Room
	Member  wire.Member   // as the others see this session's user
	Members []wire.Member // everybody, exact as of Room.Seq; nil where presence is count
}

// SessionRef names a session whose lease is to be renewed.
type SessionRef struct {
	RoomID  string
	Session string
	Epoch   string // optional: tells a room that is gone from a new one with its id
}

// Cause says why a session holds no seat any more.
type Cause int

// The causes. Those of a session that ended more than two minutes ago may be forgotten: it
// is LeaseEnded or RoomGone then.
const (
	LeaseEnded Cause = iota + 1
	Replaced
	RoomGone
	Removed
)

// Lost is a session that holds no seat any more; Index is its place in the request.
type Lost struct {
	Index int
	Cause Cause
}

// Store keeps the permit rules. Every method is atomic by room, counts only after it
// dropped what lapsed, takes the time from the store and never from the caller, and
// can be repeated without harm. Refusals are *wire.Error; UNAVAILABLE means that it is
// not known whether the step was made.
type Store interface {
	Rooms
	Seats
	Leases
}

// Rooms makes and finds rooms.
type Rooms interface {
	// Create answers ROOM_EXISTS unless the room was made by the same request.
	Create(ctx context.Context, s Spec) (Room, error)
	Get(ctx context.Context, roomID string) (Room, error)
	// List answers with at most size rooms, newest first, from a page token on (empty:
	// from the newest), and the token of the next page (empty: there is none).
	List(ctx context.Context, size int, token string) ([]Room, string, error)
	// Delete tells every session's gateway, then drops the room.
	Delete(ctx context.Context, roomID, requestID string) error
}

// Seats hands seats out and takes them back.
type Seats interface {
	// Reserve prolongs the permit that the user has; secret is used for a new one.
	Reserve(ctx context.Context, roomID string, m wire.Member, secret string) (Permit, error)
	Cancel(ctx context.Context, roomID, secret string) error
	Confirm(ctx context.Context, j Join) (Joined, error)
	// Leave frees the session's seat, and changes nothing where it holds none. reason is that
	// of MEMBER_LEFT. ended says that the session's socket is closed; where it is not, its
	// gateway is told to close it.
	Leave(ctx context.Context, roomID, session, reason string, ended bool) error
	// Remove frees the user's seat and permit, if any.
	Remove(ctx context.Context, roomID, user, requestID string) error
}

// Leases keeps seats occupied, and frees those that nobody keeps.
type Leases interface {
	// Renew makes leases end a lease from now, by the store's clock, and answers with those
	// that hold no seat: a lease that ended stays ended. sent is when the gateway asked for
	// it, zero where that is not known: no lease ends later than a lease and SentWithin after
	// that, for a renewal that was held up may be of a gateway that is dead by now. sooner is
	// by how much leases end sooner than a lease from now for that reason.
	Renew(ctx context.Context, leases []SessionRef, sent time.Time) (lost []Lost, sooner time.Duration, err error)
	// Due names rooms that want a visit: something lapsed there, or nobody has looked for
	// a while. It says whether there may be more of them. An error may come with visits.
	Due(ctx context.Context) (visits []Visit, more bool, err error)
	// Expire frees what lapsed in these rooms; it answers with the number of seats freed,
	// also with an error, which may be of some rooms only.
	Expire(ctx context.Context, visits []Visit) (int, error)
}

// Visit is one of the reaper's to a room.
type Visit struct {
	RoomID string
	Ended  []string // sessions whose leases were seen to have ended
}
