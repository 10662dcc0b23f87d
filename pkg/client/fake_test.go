package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/memnet"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/coder/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipeBytes is how many bytes a connection of the fake network holds in flight each way.
const pipeBytes = 64 << 10

// identityOf followed by a user id is the identity of an anonymous user.
const identityOf = "identity-of-"

// fake is a service with one room, "r", on an in-memory network. It keeps the contract as far
// as clients see it. A test can break the contract with the hooks.
type fake struct {
	http.ServeMux
	net *memnet.Network

	mu       sync.Mutex
	epoch    string
	log      []wire.ServerFrame // seq 1, 2, 3 …
	kept     int64              // the first seq that history still has
	ids      map[string]int64   // message ids → seq
	users    int                // number of anonymous users made: u1, u2 …
	makeNone int                // number of calls for an anonymous user that will fail
	proxy    []int              // statuses of the next handshakes, answered by a proxy in between
	joins    []attempt
	messages []wire.ClientFrame // as they arrived
	sockets  map[*socket]bool
	dials    []string // addresses

	// Hooks, called with mu held; n counts from 1.
	onJoin    func(n int, a attempt) *wire.Error
	onMessage func(n int, f wire.ClientFrame) verdict
}

// attempt is one join as seen by the service.
type attempt struct {
	wire.ClientFrame
	path string // with the query
	at   time.Time
}

// verdict says what happens to a MESSAGE.
type verdict struct {
	refuse *wire.Error
	drop   bool // not accepted, no answer
	mute   bool // accepted, but the connection is cut before the echo
}

type socket struct {
	*websocket.Conn
	user   string
	joined bool
}

// bubble runs f on virtual time with a fake that ends before the bubble does.
func bubble(t *testing.T, f func(t *testing.T, srv *fake)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		srv := newFake(t, "gw1:80", "gw2:80")
		f(t, srv)
	})
}

func newFake(t *testing.T, addrs ...string) *fake {
	srv := &fake{
		net: memnet.New(), epoch: "e1", kept: 1,
		ids: map[string]int64{}, sockets: map[*socket]bool{},
	}
	srv.routes()
	var ends sync.WaitGroup
	server := &http.Server{Handler: srv}
	for _, addr := range addrs {
		lis, err := srv.net.Listen(addr)
		if err != nil {
			t.Fatal(err)
		}
		ends.Go(func() { _ = server.Serve(lis) })
	}
	t.Cleanup(func() {
		srv.cutAll()
		_ = server.Close()
		ends.Wait()
	})
	return srv
}

func (srv *fake) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	srv.mu.Lock()
	srv.dials = append(srv.dials, addr)
	srv.mu.Unlock()
	return srv.net.Dial(ctx, "client", addr)
}

func (srv *fake) client(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.New("http://gw1", client.WithDialContext(srv.dial))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func (srv *fake) routes() {
	srv.HandleFunc("POST /v1/identities", func(w http.ResponseWriter, _ *http.Request) {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		if srv.makeNone > 0 {
			srv.makeNone--
			problem(w, wire.Errorf(wire.Unavailable, "later"))
			return
		}
		srv.users++
		user := fmt.Sprint("u", srv.users)
		answer(w, http.StatusCreated, client.Identity{UserID: user, Identity: identityOf + user})
	})
	srv.HandleFunc("GET /chat", srv.chat)
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func problem(w http.ResponseWriter, e *wire.Error) {
	w.Header().Set("Content-Type", "application/problem+json; charset=utf-8")
	tr := e.Code.Translate()
	if tr.Retry {
		w.Header().Set("Retry-After", "3")
	}
	w.WriteHeader(tr.HTTP)
	_ = json.NewEncoder(w).Encode(map[string]any{"title": tr.Title, "status": tr.HTTP, "detail": e.Detail, "code": e.Code})
}

// chat serves one WebSocket.
func (srv *fake) chat(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Origin") == "https://evil.example" {
		problem(w, wire.Errorf(wire.Forbidden, "origin"))
		return
	}
	srv.mu.Lock()
	if len(srv.proxy) > 0 {
		http.Error(w, "<html>", srv.proxy[0])
		srv.proxy = srv.proxy[1:]
		srv.mu.Unlock()
		return
	}
	srv.mu.Unlock()
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	conn.SetReadLimit(wire.DefaultFrameBytes)
	s := &socket{Conn: conn}
	srv.mu.Lock()
	srv.sockets[s] = true
	srv.mu.Unlock()
	defer func() {
		srv.mu.Lock()
		delete(srv.sockets, s)
		srv.mu.Unlock()
	}()
	q := r.URL.Query()
	if q.Has("permit") || q.Has("roomId") {
		srv.join(s, attempt{path: r.URL.String(), ClientFrame: wire.ClientFrame{
			RoomID: q.Get("roomId"), Permit: q.Get("permit"), Identity: q.Get("identity"), Nickname: q.Get("nickname"),
		}})
	}
	for {
		_, data, err := conn.Read(context.Background())
		if err != nil {
			return
		}
		srv.handle(s, r, data)
	}
}

func (srv *fake) handle(s *socket, r *http.Request, data []byte) {
	var f wire.ClientFrame
	if err := wire.ParseClientFrame(data, &f); err != nil {
		s.put(wire.ErrorFrame(wire.AsError(err), f.ID))
		return
	}
	switch f.Type {
	case wire.TypeJoin:
		srv.join(s, attempt{ClientFrame: f, path: r.URL.String()})
	case wire.TypeMessage:
		srv.message(s, f)
	case wire.TypePing:
		s.put(wire.PongFrame())
	case wire.TypeLeave:
		go s.Close(websocket.StatusNormalClosure, "")
	}
}

func (srv *fake) join(s *socket, a attempt) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	a.at = time.Now()
	srv.joins = append(srv.joins, a)
	if srv.onJoin != nil {
		if e := srv.onJoin(len(srv.joins), a); e != nil {
			s.put(wire.ErrorFrame(e, ""))
			go s.Close(websocket.StatusCode(e.Code.Translate().Close), "")
			return
		}
	}
	s.joined, s.user = true, "u1"
	if user, made := strings.CutPrefix(a.Identity, identityOf); made {
		s.user = user
	}
	last := int64(len(srv.log))
	from, recovered := last+1, false
	if a.After != nil {
		from, recovered = a.After.Seq+1, true
		if a.After.Epoch != srv.epoch {
			from, recovered = 1, false
		}
	}
	gap := from < srv.kept
	s.put(wire.Joined{
		RoomID: "r", Epoch: srv.epoch, Seq: last, UserID: s.user, SessionID: fmt.Sprint("s", len(srv.joins)),
		Capacity: 8, Occupied: 1, Recovered: recovered && !gap,
	}.Encode())
	if gap {
		s.put(wire.GapFrame(from, srv.kept-1))
		from = srv.kept
	}
	for ; from <= last; from++ {
		s.entry(srv.log[from-1])
	}
}

func (srv *fake) message(s *socket, f wire.ClientFrame) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.messages = append(srv.messages, f)
	var v verdict
	if srv.onMessage != nil {
		v = srv.onMessage(len(srv.messages), f)
	}
	if seq := srv.ids[f.ID]; f.ID != "" && seq != 0 && !v.drop {
		s.entry(srv.log[seq-1]) // a repeated message: the first one's echo again
		return
	}
	switch {
	case v.refuse != nil:
		s.put(wire.ErrorFrame(v.refuse, f.ID))
	case v.drop:
	case v.mute:
		delete(srv.sockets, s)
		srv.publish(f.ID, f.Body)
		go s.CloseNow()
	default:
		srv.publish(f.ID, f.Body)
	}
}

// publish appends to the log and sends to all. srv.mu must be held.
func (srv *fake) publish(id string, body json.RawMessage) {
	f := wire.ServerFrame{
		Type: wire.TypeMessage, Seq: int64(len(srv.log) + 1), Time: time.Now(), ID: id, Body: body, From: &wire.Member{UserID: "u1"},
	}
	srv.log = append(srv.log, f)
	if id != "" {
		srv.ids[id] = f.Seq
	}
	for s := range srv.sockets {
		if s.joined {
			s.entry(f)
		}
	}
}

func (s *socket) entry(f wire.ServerFrame) {
	data, err := json.Marshal(f)
	if err != nil {
		panic(err)
	}
	s.put(data)
}

func (s *socket) put(data []byte) { _ = s.Write(context.Background(), websocket.MessageText, data) }

// say publishes messages from other users.
func (srv *fake) say(bodies ...string) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	for _, body := range bodies {
		srv.publish("", json.RawMessage(body))
	}
}

// set changes what the service does, under its mutex.
func (srv *fake) set(change func()) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	change()
}

// each calls f for every socket.
func (srv *fake) each(f func(s *socket)) {
	srv.mu.Lock()
	var all []*socket
	for s := range srv.sockets {
		all = append(all, s)
	}
	srv.mu.Unlock()
	for _, s := range all {
		f(s)
	}
}

func (srv *fake) cutAll() { srv.each(func(s *socket) { s.CloseNow() }) }

func (srv *fake) closeAll(code wire.CloseCode) {
	srv.each(func(s *socket) { s.Close(websocket.StatusCode(code), code.String()) })
}

// seen returns copies of what has arrived.
func (srv *fake) seen() (joins []attempt, messages []wire.ClientFrame) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	return append(joins, srv.joins...), append(messages, srv.messages...)
}

func noJitter(limit time.Duration) time.Duration { return limit }

// within limits a wait in virtual time.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func wantCode(t *testing.T, err error, code wire.Code) {
	t.Helper()
	if !errors.Is(err, &wire.Error{Code: code}) {
		t.Fatalf("got %v, want %s", err, code)
	}
}

// line returns a short form of an event: "JOINED", "MESSAGE 3", "GAP 1-2".
func line(e client.Event) string {
	switch e.Type {
	case wire.TypeGap:
		return fmt.Sprintf("GAP %d-%d", e.GapFrom, e.GapTo)
	case wire.TypeJoined, client.TypeDisconnected:
		return e.Type
	case wire.TypeError:
		return "ERROR " + string(e.Code)
	}
	return fmt.Sprintf("%s %d", e.Type, e.Seq)
}

// want reads events and compares them with lines, which has one item for each event,
// separated by commas.
func want(t *testing.T, m *client.Member, lines string) []client.Event {
	t.Helper()
	var events []client.Event
	for _, w := range strings.Split(lines, ", ") {
		e, err := m.Next(within(t, 2*time.Minute))
		if err != nil {
			t.Fatalf("wanted %s: %v", w, err)
		}
		if line(e) != w {
			t.Fatalf("got %s, want %s", line(e), w)
		}
		events = append(events, e)
	}
	return events
}

// watch serves a WebSocket, reads from it only after a while, and reports how it ended.
func watch(ends chan<- error, after time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err == nil {
			time.Sleep(after)
			_, _, err = conn.Read(context.Background())
			conn.CloseNow()
		}
		ends <- err
	}
}
