// Package room is the room service, which owns rooms, permits, seats and leases.
//
// A seat of a room is free, reserved by a permit, or occupied by a session:
//
//	free ── ReservePermit ──▶ reserved ── ConfirmJoin ──▶ occupied ── Leave, ──▶ free
//	  ▲                          │                          │  ▲     lease ends
//	  └── CancelPermit, lapse ───┘                          └──┘ ConfirmJoin of the
//	                                                       same user: takeover
//
// A permit lapses after 15 s, and a lease ends 15 s after its last renewal. Each step is one
// atomic script in Redis (package redisstore), so any number of room services can work side
// by side. reserved + occupied ≤ capacity holds at every instant. A room that has been entered
// and whose occupancy falls to zero is deleted in the same step, unless it has a departure
// timeout.
package room

import (
	"context"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// Presence says whether joins and leaves are in a room's log.
type Presence string

// The kinds of presence.
const (
	PresenceFull  Presence = "full"  // in the log; members see the roster
	PresenceCount Presence = "count" // not in the log; members see a number
)

// Rules are the periods that govern permits and leases.
type Rules struct {
	PermitTTL time.Duration // how long a permit lives
	Lease     time.Duration // how long a seat stays occupied without a renewal
}

// DefaultRules returns the rules of the contract. Tests that wait for an end use others.
func DefaultRules() Rules { return Rules{PermitTTL: wire.PermitTTL, Lease: wire.Lease} }

// SentWithin is how much earlier than the true time the sent time of a renewal may be, by the
// store's clock.
const SentWithin = time.Second

// Room is a live room with its counts at one moment.
type Room struct {
	ID         string
	Epoch      string // distinguishes it from other rooms with the same id
	Title      string
	Capacity   int
	Presence   Presence
	CreateTime time.Time
	Reserved   int
	Occupied   int
	Seq        int64 // seq of the newest entry of its log
}

// Spec describes a room to make. All fields have been checked.
type Spec struct {
	ID               string
	Epoch            string
	Title            string
	Capacity         int
	Presence         Presence
	EmptyTimeout     time.Duration // whole seconds
	DepartureTimeout time.Duration // whole seconds
	RequestID        string        // a repeated request returns the first one's room
}

// Permit is the permit for a reserved seat, or for the seat that the user already has.
type Permit struct {
	Token      string // "<roomId>.<secret>"
	ExpireTime time.Time
	TTL        time.Duration
}

// Join is a request for a seat on behalf of a session.
type Join struct {
	RoomID      string
	Permit      string // secret; empty for a walk-in
	Member      wire.Member
	Session     string
	Gateway     string
	OwnSeatOnly bool      // a walk-in may not take a free seat
	Deadline    time.Time // by the store's clock; zero means never too late
}

// Joined is a confirmed join.
type Joined struct {
	Room    Room
	Member  wire.Member   // this session's user, as the others see it
	Members []wire.Member // all members, exact as of Room.Seq; nil if presence is count
}

// SessionRef names a session whose lease should be renewed.
type SessionRef struct {
	RoomID  string
	Session string
	Epoch   string // optional: distinguishes a room that is gone from a new one with its id
}

// Cause says why a session no longer holds a seat.
type Cause int

// The causes. If a session ended more than two minutes ago, its cause may be forgotten, and
// is then LeaseEnded or RoomGone.
const (
	LeaseEnded Cause = iota + 1
	Replaced
	RoomGone
	Removed
)

// Lost is a session that no longer holds a seat. Index is its position in the request.
type Lost struct {
	Index int
	Cause Cause
}

// Store keeps the permit rules. Every method is atomic for each room, drops what has lapsed
// before it counts, takes the time from the store and never from the caller, and can be
// repeated without harm. Refusals are *wire.Error. UNAVAILABLE means that it is not known
// whether the step was made.
type Store interface {
	Rooms
	Seats
	Leases
}

// Rooms makes and finds rooms.
type Rooms interface {
	// Create fails with ROOM_EXISTS if there is a room with this id, unless the same request
	// made it.
	Create(ctx context.Context, s Spec) (Room, error)
	Get(ctx context.Context, roomID string) (Room, error)
	// List returns at most size rooms, newest first, starting after token (empty: from the
	// newest), and the token of the next page (empty if there is none).
	List(ctx context.Context, size int, token string) ([]Room, string, error)
	// Delete notifies the gateway of every session, then deletes the room.
	Delete(ctx context.Context, roomID, requestID string) error
}

// Seats hands seats out and takes them back.
type Seats interface {
	// Reserve extends the permit that the user already has, or makes a new one with secret.
	Reserve(ctx context.Context, roomID string, m wire.Member, secret string) (Permit, error)
	Cancel(ctx context.Context, roomID, secret string) error
	Confirm(ctx context.Context, j Join) (Joined, error)
	// Leave frees the session's seat, and changes nothing if the session holds none. reason
	// is that of MEMBER_LEFT. ended says that the session's socket is closed; otherwise its
	// gateway is told to close it.
	Leave(ctx context.Context, roomID, session, reason string, ended bool) error
	// Remove frees the user's seat and permit, if there are any.
	Remove(ctx context.Context, roomID, user, requestID string) error
}

// Leases keeps seats occupied, and frees those whose leases are not renewed.
type Leases interface {
	// Renew extends leases so that they end one lease from now, by the store's clock. It
	// returns those that no longer hold a seat: a lease that has ended stays ended. sent is
	// when the gateway sent the request, or zero if that is not known. No lease ends later
	// than sent plus a lease plus SentWithin, since the gateway of a renewal that was held up
	// may be dead by now. sooner is how much earlier than a lease from now the leases end
	// because of that.
	Renew(ctx context.Context, leases []SessionRef, sent time.Time) (lost []Lost, sooner time.Duration, err error)
	// Due returns the rooms that need a visit: something has lapsed there, or nobody has
	// looked at the room for a while. more reports whether there may be further rooms. Due
	// may return both visits and an error.
	Due(ctx context.Context) (visits []Visit, more bool, err error)
	// Expire frees what has lapsed in these rooms and returns the number of seats that it
	// freed. It returns that number also with an error, which may concern only some of the
	// rooms.
	Expire(ctx context.Context, visits []Visit) (int, error)
}

// Visit is a visit that the reaper should make to a room.
type Visit struct {
	RoomID string
	Ended  []string // sessions whose leases were found to have ended
}
