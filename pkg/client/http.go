package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// maxAnswer limits how much of an HTTP response is read, in bytes. A page of 100 rooms has
// less than 100 KiB.
const maxAnswer = 1 << 20

// Identity proves who a user is until ExpireTime.
type Identity struct {
	UserID     string    `json:"userId"`
	Identity   string    `json:"identity"` // the signed token
	ExpireTime time.Time `json:"expireTime"`
}

// RoomSpec describes a room to make. Except for Capacity, a zero field means the service's
// default.
type RoomSpec struct {
	RoomID           string        // 1–64 of A-Z a-z 0-9 _ -
	Title            string        // at most 100 characters
	Capacity         int           // seats, 1–100,000
	Presence         string        // "full" or "count"
	EmptyTimeout     time.Duration // life of a room that nobody entered: 1 s – 24 h, default 60 s; rounded up to seconds
	DepartureTimeout time.Duration // life after the last seat, 0 – 24 h; rounded up to seconds
}

// Room is a room as it was when the service answered.
type Room struct {
	RoomID     string    `json:"roomId"`
	Epoch      string    `json:"epoch"`
	Title      string    `json:"title"`
	Capacity   int       `json:"capacity"`
	Reserved   int       `json:"reserved"`
	Occupied   int       `json:"occupied"`
	Presence   string    `json:"presence"`
	CreateTime time.Time `json:"createTime"`
}

// Page says which page of the rooms to list.
type Page struct {
	Size  int    // 1–100; 0 means 20
	Token string // NextPageToken of the page before; empty for the first
}

// RoomList is one page of rooms, newest first.
type RoomList struct {
	Rooms         []Room `json:"rooms"`
	NextPageToken string `json:"nextPageToken"` // empty on the last page
}

// Permit is the right to occupy one seat until ExpireTime.
type Permit struct {
	Permit     string    `json:"permit"`
	RoomID     string    `json:"roomId"`
	UserID     string    `json:"userId"`
	ExpireTime time.Time `json:"expireTime"`
	TTLSeconds float64   `json:"ttlSeconds"`
	URL        string    `json:"url"` // path to open
}

// Identity makes an anonymous user. nickname has at most 40 characters and may be empty.
func (c *Client) Identity(ctx context.Context, nickname string) (Identity, error) {
	var id Identity
	err := c.call(ctx, request{
		op: "identity", method: http.MethodPost, path: []string{"v1", "identities"},
		body: struct {
			Nickname string `json:"nickname,omitempty"`
		}{nickname},
	}, &id)
	return id, err
}

// CreateRoom makes a room. Errors: BAD_REQUEST, ROOM_EXISTS, UNAVAILABLE.
func (c *Client) CreateRoom(ctx context.Context, spec RoomSpec) (Room, error) {
	var room Room
	err := c.call(ctx, request{
		op: "create room", method: http.MethodPost, path: []string{"v1", "rooms"},
		body: struct {
			RoomID           string `json:"roomId,omitempty"`
			Title            string `json:"title,omitempty"`
			Capacity         int    `json:"capacity"`
			Presence         string `json:"presence,omitempty"`
			EmptySeconds     int    `json:"emptyTimeoutSeconds,omitempty"`
			DepartureSeconds int    `json:"departureTimeoutSeconds,omitempty"`
		}{spec.RoomID, spec.Title, spec.Capacity, spec.Presence, seconds(spec.EmptyTimeout), seconds(spec.DepartureTimeout)},
	}, &room)
	return room, err
}

func seconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }

// Room returns the room's state. Errors: ROOM_NOT_FOUND, UNAVAILABLE.
func (c *Client) Room(ctx context.Context, roomID string) (Room, error) {
	var room Room
	err := c.call(ctx, request{op: "room", method: http.MethodGet, path: []string{"v1", "rooms", roomID}}, &room)
	return room, err
}

// Rooms lists rooms, newest first.
func (c *Client) Rooms(ctx context.Context, page Page) (RoomList, error) {
	query := url.Values{}
	if page.Size != 0 {
		query.Set("pageSize", strconv.Itoa(page.Size))
	}
	if page.Token != "" {
		query.Set("pageToken", page.Token)
	}
	var list RoomList
	err := c.call(ctx, request{op: "rooms", method: http.MethodGet, path: []string{"v1", "rooms"}, query: query}, &list)
	return list, err
}

// Reserve reserves a seat in the name of identity (Identity.Identity). A user who already has
// a seat of the room gets a permit for that same seat. Errors: UNAUTHENTICATED,
// ROOM_NOT_FOUND, ROOM_FULL, UNAVAILABLE.
func (c *Client) Reserve(ctx context.Context, identity, roomID string) (Permit, error) {
	var permit Permit
	err := c.call(ctx, request{
		op: "reserve", method: http.MethodPost, path: []string{"v1", "rooms", roomID, "permits"}, identity: identity,
	}, &permit)
	return permit, err
}

// CancelPermit gives a reserved seat back. It succeeds also if the permit is already gone.
func (c *Client) CancelPermit(ctx context.Context, permit Permit) error {
	return c.call(ctx, request{
		op: "cancel permit", method: http.MethodDelete, path: []string{"v1", "rooms", permit.RoomID, "permits", permit.Permit},
	}, nil)
}

type request struct {
	op       string // names the call in errors
	method   string
	path     []string // segments, not escaped
	query    url.Values
	identity string
	body     any // sent as JSON unless nil
}

// call makes one request and decodes a successful response into out, unless out is nil.
func (c *Client) call(ctx context.Context, r request, out any) error {
	req, err := c.newRequest(ctx, r)
	if err != nil {
		return fmt.Errorf("client: %s: %w", r.op, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("client: %s: %w", r.op, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("client: %s: read the answer: %w", r.op, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("client: %s: %w", r.op, newStatusError(resp, data))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("client: %s: %w: %w", r.op, ErrProtocol, err)
	}
	return nil
}

func (c *Client) newRequest(ctx context.Context, r request) (*http.Request, error) {
	for _, segment := range r.path {
		if segment == "" || segment == "." || segment == ".." { // the path would be cleaned to another one
			return nil, wire.Errorf(wire.BadRequest, "%q is no id", segment)
		}
	}
	var body io.Reader
	if r.body != nil {
		data, err := json.Marshal(r.body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, c.address(r.path, r.query), body)
	if err != nil {
		return nil, err
	}
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.identity != "" {
		req.Header.Set("Authorization", "Bearer "+r.identity)
	}
	if c.origin != "" {
		req.Header.Set("Origin", c.origin)
	}
	return req, nil
}

func (c *Client) address(path []string, query url.Values) string {
	escaped := make([]string, len(path))
	for i, segment := range path {
		escaped[i] = url.PathEscape(segment)
	}
	u := c.base.JoinPath(escaped...)
	u.RawQuery = query.Encode()
	return u.String()
}
