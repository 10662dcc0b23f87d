package web_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/browsertest"
)

// The tests of the page share a tab, like those of anteroom.js.
func TestPage(t *testing.T) {
	site := serve(browsertest.Tab(browsertest.Start(t), t, "the visitor"), t)
	for name, test := range map[string]func(*testing.T, *scripted){
		"a message that failed is neither lost nor doubled": testFailedMessage,
		"the focus goes where the notice is, and back":      testFocus,
		"an answer behind a silence hurries the connection": testPollHurries,
		"rooms in the lobby are told apart, each once":      testLobby,
		"what goes from a list takes no focus with it":      testListKeepsFocus,
		"a late permit is that of a new visit to the room":  testLatePermit,
		"a late answer moves nobody out of the next room":   testLateAnswers,
		"a room of one's own outlives a reload, if wished":  testDeparture,
		"a page of another origin may import the client":    testOtherOrigin,
		"a name that cannot be seen is none":                testBlankName,
		"a long name breaks where the window is narrow":     testLongName,
		"on a telephone, more than are named is one line":   testManyOnTelephone,
		"nobody sits in a room that is gone":                testRoomGone,
	} {
		t.Run(name, func(t *testing.T) { test(t, site.open(t)) })
	}
}

// open opens the lobby in place of the page before.
func (s *site) open(t *testing.T) *scripted {
	t.Helper()
	p := s.newPage(t)
	p.do(chromedp.Navigate(s.url + "/?" + p.room))
	p.run(`sessionStorage.clear(); var $ = (selector) => document.querySelector(selector)`)
	return p
}

// enter makes the page go to its room.
func (s *scripted) enter() { s.t.Helper(); s.run("location.hash = '#/room/%s'", s.room) }

// inside enters the room and confirms the join.
func (s *scripted) inside() *socket {
	s.t.Helper()
	s.enter()
	c := s.socket()
	c.joined("e", 3, false)
	s.until("!$('#send').disabled")
	return c
}

// until waits until an expression is true.
func (s *scripted) until(expression string) {
	s.t.Helper()
	eval[bool](s, fmt.Sprintf(`new Promise((resolve) => {
		const look = () => (%s) ? resolve(true) : setTimeout(look, 5);
		look();
	})`, expression))
}

// is fails unless an expression is true now.
func (s *scripted) is(expression string) {
	s.t.Helper()
	if !eval[bool](s, "Boolean("+expression+")") {
		s.t.Fatalf("%s does not hold", expression)
	}
}

func testFailedMessage(t *testing.T, s *scripted) {
	c := s.inside()
	s.run("$('#message-input').value = 'hello'; $('#send').click()")
	sent := c.next()
	c.close(4440)
	s.until("$('#messages .failed')?.textContent.includes('may not have arrived')")

	release := s.hold()
	s.run("$('#notice-again').click(); $('#messages .failed button').click()")
	s.is("$('#messages .failed')") // there was no connection to send it on
	release()
	c = s.socket()
	c.after("e", 3)
	c.joined("e", 4, true)
	c.put(echo(4, me, "hello", sent.ID))
	s.until("$('#messages .own:not(.failed)')?.dataset.seq === '4'")
	s.is("!$('#messages .failed')")
}

func testLateAnswers(t *testing.T, s *scripted) {
	c := s.inside()
	s.run("$('#leave').click()")
	if f := c.next(); f.Type != wire.TypeLeave {
		t.Fatalf("the client sent %s", f.Type)
	}
	s.run("location.hash = '#/'")
	s.until("!$('#lobby').hidden")
	release := s.hold()
	s.run("$('#create').click()")
	s.until("$('#create').disabled")
	s.run("location.hash = '#/room/next'")
	s.until("$('#room-code').textContent === 'next'")
	c.close(1000)
	release()
	s.until("!$('#create').disabled")
	s.is("location.hash === '#/room/next'")
}

func testLatePermit(t *testing.T, s *scripted) {
	const answers = "performance.getEntriesByType('resource').filter(({ name }) => name.endsWith('/permits')).length"
	// With an identity in storage, hold applies to the calls for permits.
	s.run("sessionStorage.setItem('anteroom.identity', JSON.stringify({ userId: '%s', identity: 'token', renewAt: null }))", me)
	visit := func() (release func()) {
		release = s.hold()
		s.enter()
		s.until("$('#room-code').textContent === '" + s.room + "'")
		return release
	}
	first := visit()
	s.run("location.hash = '#/'")
	s.until("!$('#lobby').hidden")
	second := visit()
	first()
	s.until(answers + " === 1")
	second()
	s.socket()
	if n := len(s.cancelled); n != 0 {
		t.Errorf("%d permits were cancelled", n)
	}
}

// made fails unless the page asked to create this room.
func (s *scripted) made(want string) {
	s.t.Helper()
	select {
	case got := <-s.created:
		if got != want {
			s.t.Errorf("the page asked for the room %s, want %s", got, want)
		}
	case <-time.After(soon):
		s.t.Error("the page asked for no room")
	}
}

func testDeparture(t *testing.T, s *scripted) {
	s.run("$('#create').click()")
	s.made(`{"capacity":8,"departureTimeoutSeconds":30}`)
	s.until("location.hash === '#/room/made'")
	s.run("location.hash = '#/'; $('#room-departure').value = '0'; $('#create').click()")
	s.made(`{"capacity":8}`)
}

func testBlankName(t *testing.T, s *scripted) {
	c := s.inside()
	c.put([]byte(`{"type":"MEMBER_JOINED","seq":4,"occupied":2,"member":{"userId":"u_bob1","nickname":"   "}}`))
	c.put([]byte(`{"type":"MEMBER_JOINED","seq":5,"occupied":3,"member":{"userId":"u_bob2","nickname":"\u200b\u3164\ufe0f\u034f"}}`))
	s.until("$('#members [data-user-id=u_bob2]')")
	s.is("$('#members [data-user-id=u_bob1] .name').textContent === 'Guest bob1'")
	s.is("$('#members [data-user-id=u_bob2] .name').textContent === 'Guest bob2'")
	s.is("import('/dom.js').then(({ titleOf }) => titleOf({ roomId: 'r', title: ' ' }) === 'r' && titleOf({ roomId: 'r', title: '茶' }) === '茶')")
}

func testLongName(t *testing.T, s *scripted) {
	c := s.inside()
	s.run("$('#room').style.width = '640px'")
	name := strings.Repeat("W", wire.MaxNicknameLen)
	c.put(fmt.Appendf(nil, `{"type":"MEMBER_JOINED","seq":4,"occupied":2,"member":{"userId":"u_w","nickname":%q}}`, name))
	c.put(fmt.Appendf(nil, `{"type":"MESSAGE","seq":5,"from":{"userId":"u_w","nickname":%q},"body":"hi"}`, name))
	s.until("$('.message')")
	s.is("$('#messages').scrollWidth <= $('#messages').clientWidth")
}

func testManyOnTelephone(t *testing.T, s *scripted) {
	s.do(chromedp.EmulateViewport(390, 844))
	defer s.do(chromedp.EmulateReset())
	s.enter()
	c := s.socket()
	others := make([]string, 300)
	for i := range others {
		others[i] = fmt.Sprintf("u_%03d", i)
	}
	c.joined("e", 3, false, others...)
	s.until("$('#members-hint').checkVisibility()")
	s.is("$('#members-hint').textContent === 'and 101 more'")
	s.is("$('#members-hint').clientHeight < 2 * parseFloat(getComputedStyle($('#members-hint')).lineHeight)")
	s.is("$('#members-hint').scrollWidth <= $('#members-hint').clientWidth && document.documentElement.scrollWidth === 390")
}

func testOtherOrigin(t *testing.T, s *scripted) {
	client := eval[string](s, "location.origin") + "/anteroom.js"
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		// The page may load only what allows that explicitly.
		w.Header().Set("Cross-Origin-Embedder-Policy", "require-corp")
		w.Write([]byte(`<!DOCTYPE html><link rel="icon" href="data:,">`))
	}))
	defer other.Close()
	s.do(chromedp.Navigate(other.URL))
	got := eval[string](s, fmt.Sprintf("import(%q).then(({ Anteroom }) => new Anteroom({ baseUrl: %[1]q }).socketUrl(), String)", client))
	if want := "ws" + strings.TrimPrefix(strings.TrimSuffix(client, "/anteroom.js"), "http") + "/chat"; got != want {
		t.Errorf("the page came to %s, want %s", got, want)
	}
}

func testFocus(t *testing.T, s *scripted) {
	focused := func(id string) { s.t.Helper(); s.until("document.activeElement.id === '" + id + "'") }
	s.enter()
	focused("room-name")
	for _, code := range []int{4440, 4409} {
		c := s.socket()
		c.joined("e", 3, false)
		focused("message-input")
		s.run("$('#message-input').value = 'hello'; $('#send').focus(); $('#send').click()")
		c.next()
		focused("message-input")
		c.close(code)
		focused("notice-title")
		// A screen reader reads the notice when it gets the focus, and must not read it a
		// second time as an alert.
		s.is("$('#notice').role === null && document.activeElement.getAttribute('aria-describedby') === 'notice-text'")
		release := s.hold()
		s.run("$('#notice-again').focus(); $('#notice-again').click()")
		focused("room-name")
		release()
	}
	c := s.socket()
	c.joined("e", 3, false)
	focused("message-input")
	s.run("$('#messages .failed button').focus(); $('#messages .failed button').click()")
	c.next()
	focused("message-input")
	c.close(4442)
	focused("notice-title")
}

func testRoomGone(t *testing.T, s *scripted) {
	s.enter()
	c := s.socket()
	c.joined("e", 3, false, "other")
	s.until("$('#members').childElementCount === 2 && $('#room-seats').childElementCount > 0")
	c.close(4442)
	s.until("!$('#notice').hidden")
	s.is("$('#members').childElementCount === 0 && $('#room-seats').childElementCount === 0")
}

func testPollHurries(t *testing.T, s *scripted) {
	const poll = "document.dispatchEvent(new Event('visibilitychange'))"
	c := s.inside()
	s.run("Math.random = () => 0")
	for range 6 {
		c.close(4503)
		c = s.socket()
	}
	s.run("Math.random = () => 0.999")
	c.close(4503)
	s.until("$('#state-countdown').textContent === 'in 20 s'")
	s.silent.Store(true)
	s.run(poll)
	s.until("performance.getEntriesByType('resource').some(({ responseStatus }) => responseStatus === 503)")
	s.is("Number.parseInt($('#state-countdown').textContent.slice('in '.length)) > 1")
	s.silent.Store(false)
	s.run("Math.random = () => 0;" + poll)
	s.socket()
}

func testLobby(t *testing.T, s *scripted) {
	s.until("$('#room-list').childElementCount === 3")
	got := eval[string](s, `Array.from($('#room-list').children, (card) => {
		const link = card.querySelector('.enter');
		const described = link.getAttribute('aria-describedby').split(' ').map((id) => document.getElementById(id).textContent);
		const seen = card.querySelector('code').checkVisibility() ? ' ' + card.querySelector('code').textContent : '';
		return link.textContent + seen + ': ' + described.join(', ');
	}).join('; ')`)
	if want := "Tea tea-1: 1 free, 1 of 3 seats occupied, 1 reserved; Tea tea-2: full, 2 of 2 seats occupied; untitled: 1 free, 0 of 1 seat occupied"; got != want {
		t.Errorf("the lobby has %s, want %s", got, want)
	}
	for id, title := range map[string]string{"titled": "Tea", "untitled": "untitled"} {
		s.run("location.hash = '#/room/%s'", id)
		s.until("$('#room-name').textContent === '" + title + "'")
		s.is(fmt.Sprintf("$('#room-code').checkVisibility() === %t", id != title))
	}
}

func testListKeepsFocus(t *testing.T, s *scripted) {
	got := eval[string](s, `import('/dom.js').then(({ reconcile, element }) => {
		const list = document.body.appendChild(element('ul'));
		const show = (names) => reconcile(list, names, {
			key: (name) => name, make: (name) => element('li', { tabindex: '0' }, name), update() {},
		});
		show('abcd');
		list.children[1].focus();
		const told = [];
		for (const names of ['bcd', 'bd', 'xbdy', 'by']) {
			show(names);
			told.push(list.textContent + ' ' + (list.contains(document.activeElement) && document.activeElement.textContent));
		}
		list.remove();
		return told.join(', ');
	})`)
	if want := "bcd b, bd b, xbdy b, by b"; got != want {
		t.Errorf("the list, and what has the focus, is %s, want %s", got, want)
	}
}
