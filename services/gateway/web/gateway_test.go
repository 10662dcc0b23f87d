package web_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/coder/websocket"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/gateway/web"
)

// soon is a timeout that is far longer than anything that a test waits for.
const soon = 10 * time.Second

// site opens pages in a tab, one after the other. They share an origin, because a browser
// starts another process for another origin.
type site struct {
	tab  context.Context
	url  string
	n    int                      // pages opened so far
	page atomic.Pointer[scripted] // the current page, whose gateway answers
}

// scripted is a page with the browser client in it, and the fake gateway that the page
// talks to. The test decides what the gateway answers.
type scripted struct {
	t         *testing.T
	tab       context.Context
	room      string             // a room of this page only: an earlier page's socket may come late
	sockets   chan *socket       // sockets that have sent JOIN
	refuse    chan int           // statuses of the next calls for an identity
	silent    atomic.Bool        // whether GET of the room is answered with 503
	created   chan string        // request bodies of the rooms that the page created
	cancelled chan string        // permits that the page cancelled
	held      chan chan struct{} // one for each coming call that changes something; it waits until closed
}

// me is the user in the page.
const me = "u_me"

func serve(tab context.Context, t *testing.T) *site {
	t.Helper()
	s := &site{tab: tab}
	mux := http.NewServeMux()
	mux.Handle("/", web.Handler())
	mux.HandleFunc("/harness", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Write([]byte(`<!DOCTYPE html><link rel="icon" href="data:,"><script type="module" src="/harness.js"></script>`))
	})
	mux.HandleFunc("/harness.js", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, "testdata/harness.js") })
	mux.HandleFunc("POST /v1/identities", func(w http.ResponseWriter, r *http.Request) { s.page.Load().identities(w, r) })
	mux.HandleFunc("GET /v1/rooms", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(listed)) })
	mux.HandleFunc("POST /v1/rooms", func(w http.ResponseWriter, r *http.Request) { s.page.Load().create(w, r) })
	mux.HandleFunc("GET /v1/rooms/{room}", func(w http.ResponseWriter, r *http.Request) { s.page.Load().get(w, r) })
	mux.HandleFunc("POST /v1/rooms/{room}/permits", func(w http.ResponseWriter, r *http.Request) { s.page.Load().reserve(w, r) })
	mux.HandleFunc("DELETE /v1/rooms/{room}/permits/{permit}", func(w http.ResponseWriter, r *http.Request) {
		s.page.Load().cancelled <- r.PathValue("permit")
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("/chat", func(w http.ResponseWriter, r *http.Request) { s.page.Load().chat(w, r) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// visit opens a page in place of the one before.
func (s *site) visit(t *testing.T) *scripted {
	t.Helper()
	p := s.newPage(t)
	p.do(chromedp.Navigate(s.url + "/harness?" + p.room))
	return p
}

func (s *site) newPage(t *testing.T) *scripted {
	s.n++
	p := &scripted{
		t: t, tab: s.tab, room: fmt.Sprint("room-", s.n), sockets: make(chan *socket, 10),
		refuse: make(chan int, 10), held: make(chan chan struct{}, 10),
		created: make(chan string, 10), cancelled: make(chan string, 10),
	}
	s.page.Store(p)
	return p
}

func (s *scripted) identities(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	s.wait()
	select {
	case status := <-s.refuse:
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(status)
	default:
		w.WriteHeader(http.StatusCreated)
		expire := time.Now().Add(24 * time.Hour).Format(time.RFC3339)
		w.Write(fmt.Appendf(nil, `{"userId":%q,"identity":"token","expireTime":%q}`, me, expire))
	}
}

// listed is the list of rooms in the lobby: two with the same title, and one without.
const listed = `{"rooms":[{"roomId":"tea-1","title":"Tea","capacity":3,"reserved":1,"occupied":1},
	{"roomId":"tea-2","title":"Tea","capacity":2,"reserved":0,"occupied":2},
	{"roomId":"untitled","title":"","capacity":1,"reserved":0,"occupied":0}]}`

// get answers GET of a room. Only the room with the id "titled" has a title.
func (s *scripted) get(w http.ResponseWriter, r *http.Request) {
	if s.silent.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	title := ""
	if r.PathValue("room") == "titled" {
		title = "Tea"
	}
	w.Write(fmt.Appendf(nil, `{"roomId":%q,"title":%q,"capacity":9}`, r.PathValue("room"), title))
}

func (s *scripted) create(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.created <- string(body)
	s.wait()
	w.WriteHeader(http.StatusCreated)
	w.Write([]byte(`{"roomId":"made"}`))
}

func (s *scripted) reserve(w http.ResponseWriter, r *http.Request) {
	s.wait()
	w.WriteHeader(http.StatusCreated)
	w.Write(fmt.Appendf(nil, `{"permit":"P","roomId":%q,"userId":%q}`, r.PathValue("room"), me))
}

// hold makes the next call that changes something wait until release is called.
func (s *scripted) hold() (release func()) {
	held := make(chan struct{})
	s.held <- held
	release = sync.OnceFunc(func() { close(held) })
	s.t.Cleanup(release)
	return release
}

func (s *scripted) wait() {
	select {
	case held := <-s.held:
		<-held
	default:
	}
}

func (s *scripted) chat(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	c := &socket{t: s.t, conn: conn, frames: make(chan wire.ClientFrame, 100)}
	defer close(c.frames)
	if !c.read(&c.join) || c.join.RoomID != s.room {
		return
	}
	s.sockets <- c
	var f wire.ClientFrame
	for c.read(&f) {
		c.frames <- f
	}
}

// join makes the page join the room, and returns the socket that sent JOIN.
func (s *scripted) join(options string) *socket {
	s.t.Helper()
	s.run("harness.join(%s)", options)
	return s.socket()
}

// socket waits for the next JOIN.
func (s *scripted) socket() *socket {
	s.t.Helper()
	select {
	case c := <-s.sockets:
		return c
	case <-time.After(soon):
		s.t.Fatal("no JOIN came")
		return nil
	}
}

// want waits for the next events that the application gets. They must come in this order,
// without any other in between.
func (s *scripted) want(lines ...string) {
	s.t.Helper()
	for _, line := range lines {
		if got := eval[string](s, "harness.next()"); got != line {
			s.t.Fatalf("the application was told %q, want %q", got, line)
		}
	}
}

// advance moves the page's time forward, and returns how many sockets it has opened in all.
func (s *scripted) advance(d time.Duration) int {
	s.t.Helper()
	return eval[int](s, fmt.Sprintf("harness.advance(%d)", d.Milliseconds()))
}

// dialsAfter fails unless the page opens its next socket after d and not before.
func (s *scripted) dialsAfter(d time.Duration) { s.t.Helper(); s.oneMoreAfter("dialed", d) }

// writesAfter fails unless the page writes its next frame after d and not before.
func (s *scripted) writesAfter(d time.Duration) { s.t.Helper(); s.oneMoreAfter("written", d) }

func (s *scripted) oneMoreAfter(what string, d time.Duration) {
	s.t.Helper()
	count := func() int { return eval[int](s, "harness."+what+"()") }
	before := count()
	if d > 0 {
		s.advance(d - time.Millisecond)
		if count() != before {
			s.t.Fatalf("%s before %v", what, d)
		}
	}
	s.advance(min(d, time.Millisecond))
	if count() != before+1 {
		s.t.Fatalf("not %s after %v", what, d)
	}
}

func (s *scripted) send(body, id string) {
	s.t.Helper()
	s.run("harness.send(%q, %q)", body, id)
}

// chance sets what Math.random returns from now on.
func (s *scripted) chance(value float64) {
	s.t.Helper()
	s.run("harness.setChance(%v)", value)
}

func (s *scripted) run(script string, args ...any) {
	s.t.Helper()
	s.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf(script, args...)))
}

func (s *scripted) do(step chromedp.Action[chromedp.Void]) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.tab, soon)
	defer cancel()
	if err := chromedp.Do(ctx, step); err != nil {
		s.t.Fatal(err)
	}
}

// eval returns the result of a script. If that is a promise, eval waits for it.
func eval[T any](s *scripted, script string) T {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.tab, soon)
	defer cancel()
	result, err := chromedp.Run(ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		s.t.Fatalf("%s: %v", script, err)
	}
	return result
}

// socket is one connection of the page, from the gateway's side.
type socket struct {
	t      *testing.T
	conn   *websocket.Conn
	join   wire.ClientFrame
	frames chan wire.ClientFrame // frames after JOIN; closed when the connection ends
	closed websocket.StatusCode  // how it ended, once frames is closed
}

func (c *socket) read(f *wire.ClientFrame) bool {
	_, data, err := c.conn.Read(context.Background())
	if err != nil {
		c.closed = websocket.CloseStatus(err)
		return false
	}
	if err := wire.ParseClientFrame(data, f); err != nil {
		c.t.Errorf("the client sent %s: %v", data, err)
	}
	f.Body = append(json.RawMessage(nil), f.Body...)
	return true
}

// put sends frames to the page.
func (c *socket) put(frames ...[]byte) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	for _, f := range frames {
		if err := c.conn.Write(ctx, websocket.MessageText, f); err != nil {
			c.t.Fatalf("write %s: %v", f, err)
		}
	}
}

// takes waits for the next frame, which must be this MESSAGE.
func (c *socket) takes(body, id string) {
	c.t.Helper()
	f := c.next()
	if f.Type != wire.TypeMessage || string(f.Body) != fmt.Sprintf("%q", body) || f.ID != id {
		c.t.Fatalf("the client sent %s %s %q, want MESSAGE %q %q", f.Type, f.Body, f.ID, body, id)
	}
}

func (c *socket) next() wire.ClientFrame {
	c.t.Helper()
	select {
	case f, open := <-c.frames:
		if !open {
			c.t.Fatal("the client closed")
		}
		return f
	case <-time.After(soon):
		c.t.Fatal("the client sent nothing")
		return wire.ClientFrame{}
	}
}

// gone waits for the client to close.
func (c *socket) gone() {
	c.t.Helper()
	select {
	case f, open := <-c.frames:
		if open {
			c.t.Fatalf("the client sent %s, and was to close", f.Type)
		}
	case <-time.After(soon):
		c.t.Fatal("the client did not close")
	}
}

// close closes with a code; for 1006 it breaks the connection.
func (c *socket) close(code int) {
	if code == 1006 {
		_ = c.conn.CloseNow()
		return
	}
	_ = c.conn.Close(websocket.StatusCode(code), "")
}

// after fails unless the JOIN asked for what comes after this position in the log.
func (c *socket) after(epoch string, seq int64) {
	c.t.Helper()
	if c.join.After == nil || *c.join.After != (wire.Position{Epoch: epoch, Seq: seq}) {
		c.t.Fatalf("JOIN has after %+v, want %s %d", c.join.After, epoch, seq)
	}
}

// joined answers JOIN; in the room are the page's user and members.
func (c *socket) joined(epoch string, seq int64, recovered bool, members ...string) {
	c.t.Helper()
	c.joinedAs(me, epoch, seq, recovered, members...)
}

func (c *socket) joinedAs(userID, epoch string, seq int64, recovered bool, members ...string) {
	c.t.Helper()
	f := wire.Joined{
		RoomID: c.join.RoomID, Epoch: epoch, Seq: seq, UserID: userID, SessionID: "s", Capacity: 9,
		Occupied: len(members) + 1, Members: []wire.Member{{UserID: userID}}, Recovered: recovered,
	}
	for _, m := range members {
		f.Members = append(f.Members, wire.Member{UserID: m})
	}
	c.put(f.Encode())
}

var at = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

// says returns a MESSAGE of the log; echo returns one that was sent with an id.
func says(seq int64, from, body string) []byte { return echo(seq, from, body, "") }

func echo(seq int64, from, body, id string) []byte {
	return wire.MessageFrame(seq, at, wire.MessageTail(wire.Member{UserID: from}.Encode(), id, wire.Quote(body)))
}

func enters(seq int64, who string) []byte {
	return fmt.Appendf(nil, `{"type":"MEMBER_JOINED","seq":%d,"time":%q,"member":{"userId":%q},"occupied":2}`, seq, wire.FormatTime(at), who)
}

func refusal(code wire.Code, id string) []byte {
	return wire.ErrorFrame(wire.Errorf(code, "so it is"), id)
}
