package web_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/browsertest"
)

// The tests of anteroom.js share a tab because a browser takes seconds to start. Time in
// its pages moves only when the test advances it.
func TestAnteroomJS(t *testing.T) {
	site := serve(browsertest.Tab(browsertest.Start(t), t, "the client"), t)
	for name, test := range map[string]func(*testing.T, *scripted){
		"comes back after the close codes that ask for it, and no others": testCloseCodes,
		"a refused join ends as what it was refused with":                 testRefusedJoins,
		"comes back with full jitter, 0.5 s doubling to 20 s":             testJitter,
		"a connection that held starts over with the short delay":         testJitterStartsOver,
		"so does one that was to be replaced":                             testJitterStartsOverAfterMove,
		"waits for an identity as long as it is told":                     testIdentityRefused,
		"the network's return cuts no delay that the server asked for":    testHurry,
		"who hears that the service answers hurries, with jitter":         testHurryByWord,
		"without an identity there is no coming back":                     testIdentityRefusedForGood,
		"a draining gateway's delay is kept, and nothing is missed":       testDraining,
		"a gateway that closes before the delay is over changes nothing":  testDrainingClosedEarly,
		"who moves as another user gives the old seat up":                 testDrainingAsAnother,
		"DRAINING counts more than a roster to refresh":                   testDrainingDuringRefresh,
		"one timer dials, also where a link breaks during a dial":         testBrokenDuringDial,
		"one unbroken sequence through a rejoin":                          testReplay,
		"a GAP, or a hole, is told as a gap":                              testGaps,
		"a gap needs no rejoin where there is no roster":                  testGapWithoutRoster,
		"history that does not reach back is told as a gap":               testNotRecovered,
		"a room made anew is told, and goes on":                           testEpoch,
		"a log that was set back goes on":                                 testSetBack,
		"what was not echoed is sent again, and what was is not":          testResend,
		"a message neither echoed nor refused is sent again":              testSilentGateway,
		"what may stand in an earlier room is not sent to a new one":      testResendNewRoom,
		"what is sent again is what was sent first":                       testBodyChanges,
		"a body that is no JSON value is refused":                         testNoJSON,
		"an id that was echoed already resolves at once":                  testEchoedIDAgain,
		"another user's id is no echo":                                    testOthersIDs,
		"an ERROR rejects the message of its id":                          testRefusedMessage,
		"what was sent and not answered is unconfirmed at the end":        testEndWithUnanswered,
		"what is refused for now is sent again by itself":                 testRefusedForNow,
		"what has no answer for too long is unconfirmed":                  testNoAnswerAtAll,
		"each refusal of a backlog halves its pace":                       testPace,
		"one message at a time asks whether an outage is over":            testProbe,
		"an ERROR behind the echo is no news":                             testErrorBehindEcho,
		"one id is one message":                                           testOneID,
		"a backlog stays below the service's burst":                       testBacklog,
		"a permit whose answer was lost does not lose the seat":           testPermitShownTwice,
		"silence is a broken connection":                                  testSilence,
		"the network's return asks who is there":                          testOtherNetwork,
		"a page that the browser keeps has no seat until it is back":      testPageKept,
		"its return cuts no delay that the server asked for":              testPageKeptWhileTold,
		"an answer that is no JSON is an outage":                          testPortal,
		"what no call can hold is refused":                                testOtherAddress,
		"no delay is so long that its timer fires at once":                testLongDelays,
		"who has no room to store an identity keeps it":                   testStorageFull,
		"leaving gives the seat up":                                       testLeave,
	} {
		t.Run(name, func(t *testing.T) { test(t, site.visit(t)) })
	}
}

const firstDelay = 250 * time.Millisecond // half of 0.5 s: Math.random returns 0.5

// inRoom joins the page to the room, whose log it reads up to seq 4.
func inRoom(s *scripted) *socket {
	s.t.Helper()
	c := s.join("{}")
	c.joined("e", 3, false, "u_bob")
	c.put(says(4, "u_bob", "hello"))
	s.want("joined 3", "message 4 hello")
	return c
}

// comesBack waits until a page that was in the room has reconnected.
func comesBack(s *scripted) *socket {
	s.t.Helper()
	s.want("reconnecting 250")
	s.dialsAfter(firstDelay)
	return s.socket()
}

func testCloseCodes(t *testing.T, s *scripted) {
	for _, code := range []int{1001, 1006, 1011, 1012, 1013, 4500, 4503, 4504, 4508, 4555, 4599} {
		c := inRoom(s)
		c.close(code)
		c = comesBack(s)
		c.after("e", 4)
		c.joined("e", 4, true)
		s.want("joined 4 again")
		s.run("harness.leave()")
		if f := c.next(); f.Type != wire.TypeLeave {
			t.Fatalf("the client sent %s", f.Type)
		}
		c.close(1000)
		s.want("closed 1000 LEFT", "left")
	}
	for code, name := range map[int]string{
		1000: "LEFT", 1002: "PROTOCOL_ERROR", 1003: "UNSUPPORTED", 1007: "INVALID_TEXT", 1009: "TOO_BIG",
		4399: "CLOSE_4399", 4600: "CLOSE_4600", 4422: "CLOSE_4422", 4499: "CLOSE_4499",
		4400: "BAD_REQUEST", 4401: "UNAUTHENTICATED", 4403: "FORBIDDEN", 4404: "ROOM_NOT_FOUND", 4408: "JOIN_TIMEOUT",
		4409: "ROOM_FULL", 4410: "PERMIT_EXPIRED", 4429: "RATE_LIMITED", 4440: "REPLACED", 4441: "REMOVED", 4442: "ROOM_DELETED",
	} {
		c := inRoom(s)
		opened := eval[int](s, "harness.dialed()")
		c.close(code)
		s.want(fmt.Sprintf("closed %d %s", code, name))
		if s.advance(time.Minute) != opened {
			t.Errorf("came back after %d", code)
		}
	}
}

func testRefusedJoins(t *testing.T, s *scripted) {
	for code, close := range map[wire.Code]int{
		wire.BadRequest: 4400, wire.Unauthenticated: 4401, wire.Forbidden: 4403, wire.RoomNotFound: 4404,
		wire.RoomFull: 4409, wire.PermitExpired: 4410, wire.RateLimited: 4429,
	} {
		c := s.join("{}")
		c.put(refusal(code, ""))
		c.close(close)
		s.want(fmt.Sprintf("closed %d %s so it is unjoined", close, code))
	}
	// The detail of an earlier ERROR is not reported as the reason of a later end.
	c := inRoom(s)
	c.put(refusal(wire.BadRequest, ""))
	s.want("error BAD_REQUEST")
	c.close(4441)
	s.want("closed 4441 REMOVED")
}

func testJitter(t *testing.T, s *scripted) {
	for chance, delays := range map[float64][]int{
		0:                     {0, 0, 0},
		0.5:                   {250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000},
		math.Nextafter(1, -1): {500, 1000, 2000, 4000, 8000, 16_000, 20_000, 20_000, 20_000},
	} {
		s.chance(chance)
		c := s.join("{}")
		for _, delay := range delays {
			c.close(4503)
			s.want(fmt.Sprintf("reconnecting %d", delay))
			s.dialsAfter(time.Duration(delay) * time.Millisecond)
			c = s.socket()
		}
		s.run("harness.leave()")
		s.want("closed 1000 LEFT unjoined", "left")
	}
}

func testJitterStartsOver(t *testing.T, s *scripted) {
	c := inRoom(s)
	for _, step := range []struct {
		held  time.Duration
		delay string
	}{{0, "250"}, {9 * time.Second, "500"}, {11 * time.Second, "250"}, {time.Second, "500"}} {
		s.advance(step.held)
		c.close(1006)
		s.want("reconnecting " + step.delay)
		s.advance(time.Second)
		c = s.socket()
		c.joined("e", 4, true)
		s.want("joined 4 again")
	}
}

func testJitterStartsOverAfterMove(t *testing.T, s *scripted) {
	c := inRoom(s)
	c.close(1006)
	c = comesBack(s)
	c.joined("e", 4, true)
	s.want("joined 4 again")
	s.advance(11 * time.Second)
	c.put(wire.DrainingFrame(0), says(5, "u_bob", "bye"))
	s.want("message 5 bye")
	s.dialsAfter(0)
	s.socket().close(4503)
	s.want("reconnecting 250")
}

func testIdentityRefused(t *testing.T, s *scripted) {
	s.refuse <- 429
	s.refuse <- 503
	s.run("harness.join({})")
	s.want("reconnecting 7250")
	s.advance(7250 * time.Millisecond)
	s.want("reconnecting 7500")
	s.advance(7500 * time.Millisecond)
	s.socket().joined("e", 1, false)
	s.want("joined 1")
}

func testPortal(t *testing.T, s *scripted) {
	s.refuse <- 200 // without JSON
	const ask = "import('/anteroom.js').then(({ Anteroom }) => new Anteroom().identity()).catch(({ name, code }) => `${name} ${code}`)"
	if got := eval[string](s, ask); got != "AnteroomError UNAVAILABLE" {
		t.Errorf("got %s", got)
	}
}

func testOtherAddress(t *testing.T, s *scripted) {
	const ask = `import('/anteroom.js').then(({ Anteroom }) => {
		const anteroom = new Anteroom();
		const calls = [
			anteroom.getRoom(''), anteroom.reserve('.'), anteroom.cancel({ roomId: 'r', permit: '..' }),
			anteroom.getRoom(), anteroom.getRoom(Symbol()), anteroom.getRoom('\ud83d'), anteroom.createRoom({ capacity: 2n }),
		];
		return Promise.all(calls.map((call) => call.then(() => 'answered', ({ code }) => code)));
	}).then((codes) => [...new Set(codes)].join(' '))`
	if got := eval[string](s, ask); got != "BAD_REQUEST" {
		t.Errorf("got %s", got)
	}
}

func testLongDelays(t *testing.T, s *scripted) {
	c := inRoom(s)
	c.put(wire.DrainingFrame(30 * 24 * time.Hour))
	c.put(says(5, "u_bob", "bye"))
	s.want("message 5 bye")
	c.close(1012)
	s.want("reconnecting 86400000")
	const ask = `import('/anteroom.js').then(({ Anteroom }) => {
		fetch = async () => new Response('', { status: 503, headers: { 'Retry-After': '2592000' } });
		return new Anteroom().listRooms();
	}).catch(({ retryAfterSeconds }) => retryAfterSeconds)`
	if got := eval[int](s, ask); got != 86_400 {
		t.Errorf("to be waited %d s", got)
	}
}

func testStorageFull(t *testing.T, s *scripted) {
	const ask = `import('/anteroom.js').then(async ({ Anteroom }) => {
		Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };
		let calls = 0;
		const real = fetch;
		fetch = (...call) => { calls++; return real(...call); };
		const anteroom = new Anteroom();
		const { userId } = await anteroom.identity();
		const again = await anteroom.identity();
		anteroom.forgetIdentity();
		await anteroom.identity();
		return userId + ' ' + again.userId + ' ' + calls;
	}).catch(({ name }) => name)`
	if got := eval[string](s, ask); got != "u_me u_me 2" {
		t.Errorf("got %s", got)
	}
}

func testHurry(t *testing.T, s *scripted) {
	s.refuse <- 429
	s.run("harness.join({})")
	s.want("reconnecting 7250")
	s.run("harness.keepIdentity(%q)", me)
	s.run("dispatchEvent(new Event('online')); harness.hurry()")
	s.dialsAfter(7250 * time.Millisecond)
	s.socket().close(1006)
	s.want("reconnecting 500")
	s.run("dispatchEvent(new Event('online'))")
	s.want("reconnecting 0")
	s.dialsAfter(0)
	s.socket()
}

func testHurryByWord(t *testing.T, s *scripted) {
	c := inRoom(s)
	for _, delay := range []int{250, 500, 1000} {
		c.close(4503)
		s.want(fmt.Sprintf("reconnecting %d", delay))
		s.dialsAfter(time.Duration(delay) * time.Millisecond)
		c = s.socket()
	}
	c.close(4503)
	s.want("reconnecting 2000")
	s.run("harness.hurry()")
	s.want("reconnecting 500")
	s.dialsAfter(500 * time.Millisecond)
	s.socket().close(4503)
	s.want("reconnecting 4000")
	s.advance(3700 * time.Millisecond)
	s.run("harness.hurry()") // changes nothing: its delay would end later
	s.dialsAfter(300 * time.Millisecond)
	c = s.socket()
	c.joined("e", 4, true)
	s.want("joined 4 again")
}

func testIdentityRefusedForGood(t *testing.T, s *scripted) {
	s.refuse <- 403
	s.run("harness.join({})")
	s.want("closed 4403 FORBIDDEN the server answered 403 unjoined")
}

func testDraining(t *testing.T, s *scripted) {
	c := inRoom(s)
	c.put(wire.DrainingFrame(3*time.Second), says(5, "u_bob", "still here"))
	s.want("message 5 still here")
	s.dialsAfter(3 * time.Second)
	next := s.socket()
	next.after("e", 5)
	c.put(says(6, "u_bob", "both have it"))
	next.joined("e", 7, true)
	next.put(says(6, "u_bob", "both have it"), says(7, "u_bob", "only the new one"), says(8, "u_bob", "on it goes"))
	c.gone()
	s.want("joined 7 again", "message 6 both have it", "message 7 only the new one", "message 8 on it goes")
}

func testDrainingClosedEarly(t *testing.T, s *scripted) {
	c := inRoom(s)
	c.put(wire.DrainingFrame(3 * time.Second))
	c.put(says(5, "u_bob", "bye"))
	s.want("message 5 bye")
	s.advance(time.Second)
	c.close(1012)
	s.want("reconnecting 2000")
	s.dialsAfter(2 * time.Second)
	c = s.socket()
	c.after("e", 5)
	c.joined("e", 5, true)
	s.want("joined 5 again")
}

func testDrainingAsAnother(t *testing.T, s *scripted) {
	for _, full := range []bool{false, true} {
		c := inRoom(s)
		s.run("harness.keepIdentity('u_new')")
		c.put(wire.DrainingFrame(3*time.Second), says(5, "u_bob", "bye"))
		s.want("message 5 bye")
		s.dialsAfter(3 * time.Second)
		next := s.socket()
		if full {
			next.close(4409)
			s.want("reconnecting 750") // the old seat must be free first
			s.dialsAfter(500*time.Millisecond + firstDelay)
			next = s.socket()
		}
		next.joinedAs("u_new", "e", 6, true)
		s.want("joined 6 again")
		c.gone()
		if c.closed != websocket.StatusNormalClosure {
			t.Errorf("closed with %d, which keeps the seat", c.closed)
		}
		next.close(4440)
		s.want("closed 4440 REPLACED")
		s.run("harness.keepIdentity(%q)", me)
	}
}

func testDrainingDuringRefresh(t *testing.T, s *scripted) {
	c := inRoom(s)
	c.put(wire.GapFrame(5, 9)) // a rejoin for the roster is due after 2.5 s
	s.want("gap 5-9")
	c.put(wire.DrainingFrame(6*time.Second), says(10, "u_bob", "now"))
	s.want("message 10 now")
	s.dialsAfter(6 * time.Second)
}

func testBrokenDuringDial(t *testing.T, s *scripted) {
	c := inRoom(s)
	s.run("harness.forgetIdentity()")
	release := s.hold()
	c.put(wire.DrainingFrame(3*time.Second), says(5, "u_bob", "bye"))
	s.want("message 5 bye")
	s.advance(3 * time.Second) // the call for an identity has started
	c.close(1012)
	s.want("reconnecting 250")
	s.refuse <- 503
	release()
	s.want("reconnecting 7500")
	s.run("harness.keepIdentity(%q)", me)
	s.dialsAfter(7500 * time.Millisecond)
	c = s.socket()
	c.joined("e", 5, true)
	s.want("joined 5 again")
	opened := eval[int](s, "harness.dialed()")
	if s.advance(20*time.Second) != opened {
		t.Error("a timer was left")
	}
}

func testPermitShownTwice(t *testing.T, s *scripted) {
	c := s.join(`{permit: "tea.P"}`)
	c.close(1006) // the answer is lost
	c = comesBack(s)
	if c.join.Permit != "tea.P" {
		t.Fatalf("the permit is %q", c.join.Permit)
	}
	c.put(refusal(wire.PermitExpired, ""))
	c.close(4410)
	c = s.socket()
	if c.join.Permit != "" {
		t.Fatalf("the permit is %q", c.join.Permit)
	}
	c.joined("e", 1, false)
	s.want("joined 1")
}

func testSilence(t *testing.T, s *scripted) {
	c := inRoom(s)
	s.advance(30 * time.Second)
	if f := c.next(); f.Type != wire.TypePing {
		t.Fatalf("the client sent %s", f.Type)
	}
	s.advance(10 * time.Second)
	c.gone()
	c = comesBack(s)
	c.after("e", 4)
}

func testOtherNetwork(t *testing.T, s *scripted) {
	c := inRoom(s)
	s.advance(time.Second)
	s.run("dispatchEvent(new Event('online'))")
	if f := c.next(); f.Type != wire.TypePing {
		t.Fatalf("the client sent %s", f.Type)
	}
	s.advance(4 * time.Second)
	c.gone()
	comesBack(s)
}

// The events that a page gets when the browser keeps it, and when it shows it again.
const (
	pageHide = "dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))"
	pageShow = "dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))"
)

func testPageKept(t *testing.T, s *scripted) {
	c := inRoom(s)
	s.run("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: false }))") // as on any page's first load
	s.run(pageHide)
	c.gone()
	if c.closed != websocket.StatusNormalClosure {
		t.Fatalf("closed with %d", c.closed)
	}
	s.want("reconnecting 0")
	opened := eval[int](s, "harness.dialed()")
	s.run("dispatchEvent(new Event('online'))") // must not reconnect a page that is not shown
	if n := s.advance(time.Hour); n != opened {
		t.Fatalf("%d sockets were opened meanwhile", n-opened)
	}
	s.run(pageShow)
	c = s.socket()
	c.after("e", 4)
	c.joined("e", 5, true)
	c.put(says(5, "u_bob", "missed"))
	s.want("joined 5 again", "message 5 missed")
	s.run("harness.leave()")
	c.next()
	c.close(1000)
	s.want("closed 1000 LEFT", "left")
	opened = eval[int](s, "harness.dialed()")
	s.run(pageHide + ";" + pageShow)
	if n := s.advance(time.Minute); n != opened {
		t.Error("a connection that had ended came back")
	}
}

func testPageKeptWhileTold(t *testing.T, s *scripted) {
	s.refuse <- 429
	s.run("harness.join({})")
	s.want("reconnecting 7250")
	s.run("harness.keepIdentity(%q)", me)
	s.run(pageHide)
	s.want("reconnecting 0")
	s.advance(time.Second)
	s.run(pageShow)
	s.want("reconnecting 6500") // the remaining 6 of 7 s, and half of 1 s
	s.dialsAfter(6500 * time.Millisecond)
	c := s.socket()
	s.run(pageHide) // before the join is confirmed
	c.gone()
	s.want("reconnecting 0")
	s.run(pageShow)
	s.socket().joined("e", 1, false)
	s.want("joined 1")
}

func testLeave(t *testing.T, s *scripted) {
	c := inRoom(s)
	s.send("text", "m1")
	c.takes("text", "m1")
	s.run("harness.leave()")
	if f := c.next(); f.Type != wire.TypeLeave {
		t.Fatalf("the client sent %s", f.Type)
	}
	s.advance(3 * time.Second) // no answer comes
	c.gone()
	s.want("closed 1000 LEFT", "failed m1 UNCONFIRMED", "left")
	s.send("text", "m2")
	s.want("failed m2 CLOSED LEFT")
}
