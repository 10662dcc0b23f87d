package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// serve makes a Client of an httptest server on a real socket.
func serve(t *testing.T, h http.HandlerFunc, opts ...client.Option) *client.Client {
	t.Helper()
	srv := httptest.NewServer(h)
	c, err := client.New(srv.URL+"/below", opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.CloseIdleConnections()
		srv.Close()
	})
	return c
}

type exchange struct {
	call                  func(ctx context.Context, c *client.Client) (any, error)
	method, uri, in, auth string
	status                int
	out                   string
	want                  any
}

var exchanges = map[string]exchange{
	"identity": {
		call:   func(ctx context.Context, c *client.Client) (any, error) { return c.Identity(ctx, "Ann") },
		method: "POST", uri: "/below/v1/identities", in: `{"nickname":"Ann"}`, status: 201,
		out:  `{"userId":"u","identity":"i","expireTime":"2026-01-02T03:04:05Z"}`,
		want: client.Identity{UserID: "u", Identity: "i", ExpireTime: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
	},
	"create": {
		call: func(ctx context.Context, c *client.Client) (any, error) {
			return c.CreateRoom(ctx, client.RoomSpec{Capacity: 0, EmptyTimeout: 1500 * time.Millisecond})
		},
		method: "POST", uri: "/below/v1/rooms", in: `{"capacity":0,"emptyTimeoutSeconds":2}`, status: 201,
		out: `{"roomId":"r","epoch":"e","capacity":8}`, want: client.Room{RoomID: "r", Epoch: "e", Capacity: 8},
	},
	"room": {
		call:   func(ctx context.Context, c *client.Client) (any, error) { return c.Room(ctx, "a/b") },
		method: "GET", uri: "/below/v1/rooms/a%2Fb", status: 200, out: `{"occupied":3}`, want: client.Room{Occupied: 3},
	},
	"rooms": {
		call: func(ctx context.Context, c *client.Client) (any, error) {
			return c.Rooms(ctx, client.Page{Size: 5, Token: "x+y"})
		},
		method: "GET", uri: "/below/v1/rooms?pageSize=5&pageToken=x%2By", status: 200,
		out: `{"rooms":[],"nextPageToken":"n"}`, want: client.RoomList{Rooms: []client.Room{}, NextPageToken: "n"},
	},
	"reserve": {
		call:   func(ctx context.Context, c *client.Client) (any, error) { return c.Reserve(ctx, "i", "r") },
		method: "POST", uri: "/below/v1/rooms/r/permits", auth: "Bearer i", status: 201,
		out: `{"permit":"r.p","ttlSeconds":15}`, want: client.Permit{Permit: "r.p", TTLSeconds: 15},
	},
	"cancel": {
		call: func(ctx context.Context, c *client.Client) (any, error) {
			return nil, c.CancelPermit(ctx, client.Permit{RoomID: "r", Permit: "r.p"})
		},
		method: "DELETE", uri: "/below/v1/rooms/r/permits/r.p", status: 204, want: nil,
	},
}

func TestCallsAreAsTheContractSays(t *testing.T) {
	for name, tc := range exchanges {
		t.Run(name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				in, _ := io.ReadAll(r.Body)
				if r.Method != tc.method || r.RequestURI != tc.uri || string(in) != tc.in || r.Header.Get("Authorization") != tc.auth {
					t.Errorf("got %s %s %s %q", r.Method, r.RequestURI, in, r.Header.Get("Authorization"))
				}
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.out)
			})
			got, err := tc.call(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			a, _ := json.Marshal(got)
			b, _ := json.Marshal(tc.want)
			if string(a) != string(b) {
				t.Errorf("got %s, want %s", a, b)
			}
		})
	}
}

func TestProblemsBecomeRefusals(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { problem(w, wire.Errorf(wire.Unavailable, "later")) })
	_, err := c.Room(t.Context(), "r")
	wantCode(t, err, wire.Unavailable)
	status, ok := errors.AsType[*client.StatusError](err)
	if !ok || status.Status != 503 || status.RetryAfter != 3*time.Second || status.Err.Detail != "later" {
		t.Errorf("got %#v", status)
	}
}

func TestADelayHasTheLengthOfADayAtMost(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"3": 3 * time.Second, "-3": 0, "soon": 0, "86401": 24 * time.Hour, "10000000000": 24 * time.Hour, "-9300000000": 0,
		"99999999999999999999":          24 * time.Hour,
		"Fri, 31 Dec 9999 23:59:59 GMT": 24 * time.Hour, "Fri, 31 Dec 1999 23:59:59 GMT": 0,
	} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", header)
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		_, err := c.Room(t.Context(), "r")
		if status, ok := errors.AsType[*client.StatusError](err); !ok || status.RetryAfter != want {
			t.Errorf("%s: got %#v, want %v", header, status, want)
		}
	}
}

func TestA404OfAProxyIsNotRoomNotFound(t *testing.T) {
	for status, code := range map[int]wire.Code{404: wire.Internal, 502: wire.Unavailable, 429: wire.RateLimited} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "<html>", status) })
		_, err := c.Room(t.Context(), "r")
		wantCode(t, err, code)
	}
}

func TestUnreachableIsNoRefusal(t *testing.T) {
	c := serve(t, nil)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lis.Close()
	if c, err = c.At("http://" + lis.Addr().String()); err != nil {
		t.Fatal(err)
	}
	_, err = c.Room(t.Context(), "r")
	if _, refused := errors.AsType[*wire.Error](err); refused || err == nil {
		t.Errorf("got %v, want an error of the transport", err)
	}
	if _, ok := errors.AsType[*net.OpError](err); !ok {
		t.Errorf("%v hides why", err)
	}
}

func TestNotJSONBreaksTheProtocol(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "<html>") })
	if _, err := c.Room(t.Context(), "r"); !errors.Is(err, client.ErrProtocol) {
		t.Errorf("got %v", err)
	}
}

func TestAnIDThatWouldNameAnotherAddressIsRefused(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { answer(w, 200, struct{}{}) })
	for _, id := range []string{"", ".", ".."} {
		_, err := c.Room(t.Context(), id)
		wantCode(t, err, wire.BadRequest)
		_, err = c.Reserve(t.Context(), "identity", id)
		wantCode(t, err, wire.BadRequest)
		wantCode(t, c.CancelPermit(t.Context(), client.Permit{RoomID: "r", Permit: id}), wire.BadRequest)
	}
}

func TestOriginIsSent(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Origin"); got != "https://a.example" {
			t.Errorf("%s: origin %q", r.URL, got)
		}
		problem(w, wire.Errorf(wire.Forbidden, "origin"))
	}, client.WithOrigin("https://a.example"))
	_, err := c.Room(t.Context(), "r")
	wantCode(t, err, wire.Forbidden)
	_, err = c.Join(t.Context(), client.JoinOptions{RoomID: "r"})
	wantCode(t, err, wire.Forbidden)
	if status, ok := errors.AsType[*client.StatusError](err); !ok || status.Status != 403 {
		t.Errorf("got %v, want HTTP 403", err)
	}
}

func TestBaseURLIsChecked(t *testing.T) {
	for _, base := range []string{"", "host:80", "ftp://host", "http://", "http://a b", "://"} {
		if _, err := client.New(base); err == nil {
			t.Errorf("%q was accepted", base)
		}
	}
	if _, err := client.New("http://h", client.WithHTTPClient(http.DefaultClient), client.WithDialContext((&net.Dialer{}).DialContext)); err == nil {
		t.Error("two ways to dial were accepted")
	}
}
