package client_test

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/memnet"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

func join(t *testing.T, srv *fake, o client.JoinOptions) *client.Session {
	t.Helper()
	o.RoomID = "r"
	s, err := srv.client(t).Join(within(t, time.Minute), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Abort)
	return s
}

func wantClose(t *testing.T, err error, code wire.CloseCode) {
	t.Helper()
	if end, ok := errors.AsType[*client.CloseError](err); !ok || end.Code != code {
		t.Fatalf("got %v, want close code %d", err, code)
	}
}

func TestEachWayToJoin(t *testing.T) {
	for name, tc := range map[string]struct {
		o    client.JoinOptions
		path string
	}{
		"JOIN frame":  {client.JoinOptions{Permit: "r.p", Identity: "i", Nickname: "Ann"}, "/chat"},
		"permit":      {client.JoinOptions{Via: client.ViaPermit, Permit: "r.p&x"}, "/chat?permit=r.p%26x"},
		"room":        {client.JoinOptions{Via: client.ViaQuery}, "/chat?roomId=r"},
		"room, names": {client.JoinOptions{Via: client.ViaQuery, Identity: "i", Nickname: "Ann B"}, "/chat?identity=i&nickname=Ann+B&roomId=r"},
		"one gateway": {client.JoinOptions{BaseURL: "ws://gw2/"}, "/chat"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, srv *fake) {
				s := join(t, srv, tc.o)
				joins, _ := srv.seen()
				if j := joins[0]; j.path != tc.path || j.Permit != tc.o.Permit || j.Identity != tc.o.Identity || j.Nickname != tc.o.Nickname {
					t.Errorf("the service saw %+v", j)
				}
				if j := s.Joined(); j.RoomID != "r" || j.Epoch != "e1" || j.UserID != "u1" || j.Capacity != 8 {
					t.Errorf("joined %+v", j)
				}
				if tc.o.BaseURL != "" && srv.dials[0] != "gw2:80" {
					t.Errorf("dialled %v", srv.dials)
				}
			})
		})
	}
}

func TestAPositionNeedsAJoinFrame(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		if _, err := srv.client(t).Join(t.Context(), client.JoinOptions{Via: client.ViaQuery, After: &wire.Position{}}); err == nil {
			t.Error("accepted")
		}
	})
}

func TestARefusedJoinHasCodeAndCloseCode(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		srv.onJoin = func(int, attempt) *wire.Error { return wire.Errorf(wire.RoomFull, "8 of 8") }
		_, err := srv.client(t).Join(t.Context(), client.JoinOptions{RoomID: "r"})
		wantCode(t, err, wire.RoomFull)
		wantClose(t, err, wire.CloseRoomFull)
		if e, ok := errors.AsType[*client.JoinError](err); !ok || e.Err.Detail != "8 of 8" {
			t.Errorf("got %v", err)
		}
	})
}

func TestARefusalWithoutACloseEndsTheJoin(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		_, err := srv.client(t).Join(t.Context(), client.JoinOptions{RoomID: "no such id"})
		wantCode(t, err, wire.BadRequest)
	})
}

func TestACloseAloneTellsWhy(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		srv.onJoin = func(int, attempt) *wire.Error {
			go srv.closeAll(wire.ClosePermitExpired)
			return &wire.Error{Code: wire.PermitExpired}
		}
		_, err := srv.client(t).Join(t.Context(), client.JoinOptions{Via: client.ViaPermit, Permit: "x"})
		wantCode(t, err, wire.PermitExpired)
		wantClose(t, err, wire.ClosePermitExpired)
	})
}

func TestJoinEndsWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		block := make(chan struct{})
		defer close(block)
		srv.onJoin = func(int, attempt) *wire.Error { <-block; return nil }
		_, err := srv.client(t).Join(within(t, time.Second), client.JoinOptions{RoomID: "r"})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestFramesAndPosition(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		srv.say(`1`, `2`)
		s := join(t, srv, client.JoinOptions{})
		if got := s.Position(); got != (wire.Position{Epoch: "e1", Seq: 2}) {
			t.Errorf("position at first: %v", got)
		}
		if err := s.Send(t.Context(), "id1", map[string]string{"text": "<hi>"}); err != nil {
			t.Fatal(err)
		}
		if err := s.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		var types []string
		for f, err := range s.Frames(t.Context()) {
			if err != nil {
				wantClose(t, err, wire.CloseReplaced)
				break
			}
			types = append(types, f.Type+f.ID)
			if f.Type == wire.TypePong {
				go srv.closeAll(wire.CloseReplaced)
			}
		}
		if len(types) != 2 || types[0] != "MESSAGEid1" || types[1] != "PONG" {
			t.Errorf("got %v", types)
		}
		if got := s.Position().Seq; got != 3 {
			t.Errorf("position %d, want 3", got)
		}
		_, err := s.Receive(t.Context())
		wantClose(t, err, wire.CloseReplaced)
	})
}

func TestAReceiveThatGivesUpLosesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		s := join(t, srv, client.JoinOptions{})
		for range 3 {
			if _, err := s.Receive(within(t, time.Second)); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("got %v", err)
			}
		}
		srv.say(`1`, `2`)
		synctest.Wait()
		for seq := int64(1); seq <= 2; seq++ {
			if f, err := s.Receive(context.Background()); err != nil || f.Seq != seq {
				t.Fatalf("got %v, %v", f, err)
			}
		}
	})
}

func TestLeaveWaitsForTheClose(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		s := join(t, srv, client.JoinOptions{})
		srv.say(`1`)
		if err := s.Leave(within(t, time.Second)); err != nil {
			t.Error(err)
		}
		_, err := s.Receive(t.Context())
		wantClose(t, err, wire.CloseNormal)
	})
}

func TestLeaveBesideAReader(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		s := join(t, srv, client.JoinOptions{})
		ends := make(chan error, 1)
		go func() {
			for {
				if _, err := s.Receive(context.Background()); err != nil {
					ends <- err
					return
				}
			}
		}()
		synctest.Wait()
		if err := s.Leave(within(t, time.Second)); err != nil {
			t.Error(err)
		}
		wantClose(t, <-ends, wire.CloseNormal)
	})
}

// endings returns a Session, and a channel that reports how its connection ended for the
// other side. That side answers a close frame only after the given time.
func endings(t *testing.T, after time.Duration) (*client.Session, chan error) {
	srv, ends := newFake(t, "gw1:80"), make(chan error, 1)
	srv.HandleFunc("GET /watched/chat", watch(ends, after))
	s, err := srv.client(t).Open(t.Context(), client.JoinOptions{BaseURL: "http://gw1/watched"})
	if err != nil {
		t.Fatal(err)
	}
	return s, ends
}

func TestAbortSendsNoCloseFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ends := endings(t, 0)
		s.Abort()
		s.Abort()
		if err := <-ends; websocket.CloseStatus(err) != -1 {
			t.Errorf("the other side got %v", err)
		}
		_, err := s.Receive(t.Context())
		wantClose(t, err, client.CloseAbnormal)
	})
}

func TestCloseSendsItsCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ends := endings(t, 0)
		if err := s.Close(4000); err != nil {
			t.Error(err)
		}
		if err := <-ends; websocket.CloseStatus(err) != 4000 {
			t.Errorf("the other side got %v", err)
		}
	})
}

// A receive that runs while Close waits for the other side finds the connection closed.
func TestReceiveBesideAClose(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			s, ends := endings(t, time.Second)
			closed, received := make(chan error, 1), make(chan error, 1)
			go func() { closed <- s.Close(4000) }()
			synctest.Wait()
			go func() {
				_, err := s.Receive(context.Background())
				received <- err
			}()
			if err := <-ends; websocket.CloseStatus(err) != 4000 {
				t.Errorf("the other side got %v", err)
			}
			if err := <-closed; err != nil {
				t.Error(err)
			}
			wantClose(t, <-received, 4000)
		})
	}
}

func TestACloseIsNoAnswerToALeaveBesideIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ends := endings(t, time.Minute)
		left := make(chan error, 1)
		go func() { left <- s.Leave(context.Background()) }()
		synctest.Wait()
		if err := s.Close(wire.CloseNormal); err == nil {
			t.Error("closed, though nobody agreed")
		}
		if err := <-left; err == nil {
			t.Error("left, though nobody said so")
		}
		if err := <-ends; err != nil { // the other side reads LEAVE in the end
			t.Error(err)
		}
	})
}

func TestASilentServerIsLeft(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fake) {
		s := join(t, srv, client.JoinOptions{})
		began := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		pinged := make(chan struct{})
		go func() { // five minutes of pings, then silence
			defer close(pinged)
			for range 12 {
				time.Sleep(wire.PingEvery)
				srv.each(func(s *socket) { _ = s.Conn.Ping(ctx) })
			}
		}()
		_, err := s.Receive(context.Background())
		wantClose(t, err, client.CloseAbnormal)
		if got, want := time.Since(began), 12*wire.PingEvery+wire.PeerSilence; got != want {
			t.Errorf("left after %v, want %v", got, want)
		}
		cancel()
		<-pinged
	})
}

func TestJOINEDOfAThousandMembersFits(t *testing.T) {
	members := make([]wire.Member, wire.MaxFullPresence)
	for i := range members {
		id, nick := make([]byte, wire.MaxUserIDLen), make([]rune, wire.MaxNicknameLen)
		for j := range id {
			id[j] = '"'
		}
		for j := range nick {
			nick[j] = '😀'
		}
		members[i] = wire.Member{UserID: string(id), Nickname: string(nick)}
	}
	if size := len(wire.Joined{Members: members}.Encode()); size > client.ReadLimit/2 {
		t.Errorf("JOINED has %d bytes", size)
	}
}

func TestOnARealSocket(t *testing.T) {
	srv := newFake(t)
	web := httptest.NewServer(srv)
	defer web.Close()
	c, err := client.New(web.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseIdleConnections()
	m, err := c.Enter(within(t, 10*time.Second), client.MemberOptions{RoomID: "r"})
	if err != nil {
		t.Fatal(err)
	}
	for want := range 3 {
		if seq, err := m.Send(within(t, 10*time.Second), want); err != nil || seq != int64(want+1) {
			t.Fatalf("seq %d, %v", seq, err)
		}
	}
	if err := m.Leave(within(t, 10*time.Second)); err != nil {
		t.Error(err)
	}
}

// Its gateway vanished, without a sign, while it sent a frame.
func TestCloseEndsInTheMiddleOfAFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		l, err := network.Listen("gateway:80")
		if err != nil {
			t.Fatal(err)
		}
		half := func(w http.ResponseWriter, r *http.Request) {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			key := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
			_, _ = fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(key[:]))
			_, _ = rw.WriteString("\x81\x7d{\"type\":") // the beginning of a text of 125 bytes
			_ = rw.Flush()
			_, _ = io.Copy(io.Discard, rw)
		}
		server := &http.Server{Handler: http.HandlerFunc(half)}
		var served sync.WaitGroup
		served.Go(func() { _ = server.Serve(l) })
		defer func() {
			_ = server.Close()
			served.Wait()
		}()
		c, err := client.New("http://gateway", client.WithDialContext(func(ctx context.Context, _, addr string) (net.Conn, error) {
			return network.Dial(ctx, "client", addr)
		}))
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseIdleConnections()
		s, err := c.Open(t.Context(), client.JoinOptions{})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := s.Close(wire.CloseNormal); err == nil {
			t.Error("closed, though nobody answered")
		}
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("Close took %v", d)
		}
	})
}
