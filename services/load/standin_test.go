package load

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"github.com/anteroom-chat/anteroom/pkg/client"
)

// standIn is a proxy that makes the system behind it break a rule. Nil functions change
// nothing.
type standIn struct {
	target *url.URL
	// down returns a function that changes the frames of one connection on their way to
	// the client: it replaces each frame by none, one or several.
	down func() func(f map[string]any, raw []byte) [][]byte
	// up reports whether a frame of the client must be answered with a close instead of
	// being passed on.
	up     func(raw []byte) bool
	query  func(url.Values)
	answer func(method string, room map[string]any) // a room, in answers
	create func(room map[string]any)                // a room, in requests
	deaf   bool                                     // a close with 4440 is not passed on, and PING is answered
	ghosts bool                                     // a room that is gone is reported with a taken seat
}

func (s *standIn) start(t *testing.T, target string) string {
	t.Helper()
	s.target, _ = url.Parse(target)
	proxy := &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(s.target); s.request(r.Out) },
		ModifyResponse: s.response,
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/chat", s.chat)
	mux.Handle("/", proxy)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

func (s *standIn) request(r *http.Request) {
	if s.create != nil && r.Method == http.MethodPost && r.URL.Path == "/v1/rooms" {
		body := change(r.Body, s.create)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
}

func (s *standIn) response(r *http.Response) error {
	path := strings.Trim(r.Request.URL.Path, "/")
	if s.ghosts && r.Request.Method == http.MethodGet && r.StatusCode == http.StatusNotFound {
		r.StatusCode, r.Body = http.StatusOK, io.NopCloser(strings.NewReader(`{"capacity":4,"occupied":1}`))
		r.ContentLength = -1
		r.Header.Del("Content-Length")
	}
	if s.answer != nil && strings.HasPrefix(path, "v1/rooms/") && strings.Count(path, "/") == 2 && r.StatusCode == http.StatusOK {
		body := change(r.Body, func(room map[string]any) { s.answer(r.Request.Method, room) })
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		r.Header.Del("Content-Length")
	}
	return nil
}

func change(r io.Reader, do func(map[string]any)) []byte {
	var v map[string]any
	_ = json.NewDecoder(r).Decode(&v)
	do(v)
	return encode(v)
}

func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}

// chat passes frames on in both directions.
func (s *standIn) chat(w http.ResponseWriter, r *http.Request) {
	u := s.target.JoinPath("/chat")
	query := r.URL.Query()
	if s.query != nil {
		s.query(query)
	}
	u.RawQuery = query.Encode()
	system, _, err := websocket.Dial(r.Context(), u.String(), nil)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	user, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	system.SetReadLimit(client.ReadLimit)
	defer system.CloseNow()
	defer user.CloseNow()
	var both sync.WaitGroup
	both.Go(func() { s.pumpDown(system, user) })
	s.pumpUp(user, system)
	both.Wait()
}

func (s *standIn) pumpDown(system, user *websocket.Conn) {
	ctx := context.Background()
	pass := func(_ map[string]any, raw []byte) [][]byte { return [][]byte{raw} }
	if s.down != nil {
		pass = s.down()
	}
	for {
		_, raw, err := system.Read(ctx)
		if err != nil {
			if code := websocket.CloseStatus(err); s.deaf && code == 4440 {
				return // the user's connection stays open
			} else if code > 0 {
				_ = user.Close(code, "")
			}
			_ = user.CloseNow()
			return
		}
		var f map[string]any
		_ = json.Unmarshal(raw, &f)
		for _, out := range pass(f, raw) {
			_ = user.Write(ctx, websocket.MessageText, out)
		}
	}
}

func (s *standIn) pumpUp(user, system *websocket.Conn) {
	ctx := context.Background()
	for {
		_, raw, err := user.Read(ctx)
		switch {
		case err != nil:
			if code := websocket.CloseStatus(err); code == websocket.StatusNormalClosure || code == websocket.StatusGoingAway {
				_ = system.Close(code, "")
			}
			_ = system.CloseNow()
			return
		case s.up != nil && s.up(raw):
			_ = user.Close(websocket.StatusNormalClosure, "")
			_ = system.CloseNow()
			return
		case s.deaf && bytes.Contains(raw, []byte(`"PING"`)):
			_ = user.Write(ctx, websocket.MessageText, []byte(`{"type":"PONG"}`))
		default:
			_ = system.Write(ctx, websocket.MessageText, raw)
		}
	}
}
