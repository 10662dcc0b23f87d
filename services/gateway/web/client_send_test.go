package web_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

func testResend(t *testing.T, s *scripted) {
	c := inRoom(s)
	for _, id := range []string{"m1", "m2", "m3", "m4"} {
		s.send("text", id)
		c.takes("text", id)
	}
	c.put(echo(5, me, "text", "m1"))
	s.want("message 5 text own", "sent m1 5")
	c.close(1006)
	s.want("reconnecting 250")
	s.send("text", "m5") // there is no connection
	s.dialsAfter(firstDelay)
	c = s.socket()
	// In the log are m2, whose echo was lost, and m3, which another page of the user sent again.
	c.joined("e", 7, true)
	c.put(echo(6, me, "text", "m2"))
	s.want("joined 7 again", "message 6 text own", "sent m2 6")
	c.put(echo(7, me, "text", "m3"))
	s.want("message 7 text own", "sent m3 7")
	c.takes("text", "m4")
	c.takes("text", "m5")
	// m4 arrived long ago: it is answered with an entry that the application knows already.
	c.put(echo(4, me, "text", "m4"), echo(8, me, "text", "m5"))
	s.want("sent m4 4", "message 8 text own", "sent m5 8")
	s.send("text", "m6")
	c.takes("text", "m6") // nothing came between
}

func testSilentGateway(t *testing.T, s *scripted) {
	c := inRoom(s)
	s.send("anyone there?", "m1")
	c.takes("anyone there?", "m1")
	c.close(4503)
	c = comesBack(s)
	c.joined("e", 4, true)
	s.want("joined 4 again")
	c.takes("anyone there?", "m1")
	c.put(echo(5, me, "anyone there?", "m1"))
	s.want("message 5 anyone there? own", "sent m1 5")
}

func testResendNewRoom(t *testing.T, s *scripted) {
	c := inRoom(s)
	s.send("old", "m1")
	c.takes("old", "m1")
	c.close(1006)
	s.want("reconnecting 250")
	s.send("new", "m2")
	s.dialsAfter(firstDelay)
	c = s.socket()
	c.joined("f", 1, false)
	c.put(wire.GapFrame(1, 1))
	c.takes("new", "m2")
	s.want("joined 1 again renewed", "failed m1 UNCONFIRMED", "gap 1-1")
}

func testBodyChanges(t *testing.T, s *scripted) {
	c := inRoom(s)
	s.run("globalThis.body = { n: 1 }; harness.send(body, 'm1'); body.n = 2")
	first := c.next()
	c.close(1006)
	c = comesBack(s)
	c.joined("e", 4, true)
	if again := c.next(); string(first.Body) != `{"n":1}` || string(again.Body) != `{"n":1}` || again.ID != "m1" {
		t.Errorf("sent %s, and then %s as %s", first.Body, again.Body, again.ID)
	}
}

func testEchoedIDAgain(t *testing.T, s *scripted) {
	c := inRoom(s)
	s.send("text", "m1")
	c.takes("text", "m1")
	c.put(echo(5, me, "text", "m1"))
	s.want("message 5 text own", "sent m1 5")
	s.send("text", "m1") // which the server would not answer
	s.want("sent m1 5")
	c.put(echo(6, me, "text", "elsewhere")) // from another page of the user
	s.want("message 6 text own")
	s.send("text", "elsewhere")
	s.want("sent elsewhere 6")
	s.send("text", "m2")
	c.takes("text", "m2") // nothing was sent in between
	c.close(1006)
	s.want("reconnecting 250")
	s.dialsAfter(firstDelay)
	s.run("harness.sendOnceJoined('text', 'm1')")
	c = s.socket()
	c.joined("f", 1, false) // a new room does not know the id
	c.put(wire.GapFrame(1, 1))
	s.want("joined 1 again renewed", "failed m2 UNCONFIRMED", "gap 1-1")
	c.takes("text", "m1")
}

func testNoJSON(t *testing.T, s *scripted) {
	inRoom(s)
	s.run("harness.send(1n, 'm1')")
	s.want("failed m1 BAD_REQUEST")
	for _, id := range []string{"5", "['a']", "''", "null", `'\ud83d'`, "'a'.repeat(65)"} {
		s.run("harness.send('text', %s)", id)
		if got := eval[string](s, "harness.next()"); !strings.HasPrefix(got, "failed ") || !strings.HasSuffix(got, " BAD_REQUEST") {
			t.Errorf("with %s as id the application was told %q", id, got)
		}
	}
}

func testOthersIDs(t *testing.T, s *scripted) {
	c := inRoom(s)
	s.send("mine", "m1")
	c.takes("mine", "m1")
	c.put(echo(5, "u_bob", "his", "m1"), echo(6, me, "mine", "m1"))
	s.want("message 5 his", "message 6 mine own", "sent m1 6")
}

func testRefusedMessage(t *testing.T, s *scripted) {
	c := inRoom(s)
	for code, as := range map[wire.Code]string{
		wire.BadRequest: "BAD_REQUEST", wire.Forbidden: "FORBIDDEN", wire.Internal: "UNCONFIRMED",
	} {
		s.send("text", "m1")
		c.takes("text", "m1")
		c.put(refusal(code, "m1"))
		s.want(fmt.Sprintf("error %s m1", code), fmt.Sprintf("failed m1 %s", as))
	}
}

func testEndWithUnanswered(t *testing.T, s *scripted) {
	c := inRoom(s)
	s.send("limited", "m1")
	c.takes("limited", "m1")
	c.put(refusal(wire.RateLimited, "m1"))
	s.want("error RATE_LIMITED m1 retrying")
	s.send("never sent", "m2")
	c.close(4440)
	s.want("closed 4440 REPLACED", "failed m1 CLOSED REPLACED", "failed m2 CLOSED REPLACED")
	s.send("too late", "m4")
	s.want("failed m4 CLOSED REPLACED")
	c = inRoom(s)
	s.send("under way", "m3")
	c.takes("under way", "m3")
	c.close(4440)
	s.want("closed 4440 REPLACED", "failed m3 UNCONFIRMED")
}

// The service promises an answer or a close, but a proxy or another server may not keep that.
func testNoAnswerAtAll(t *testing.T, s *scripted) {
	c := inRoom(s)
	const atOnce = 32
	s.send("text", "m")
	c.takes("text", "m")
	c.put(echo(5, me, "text", "m"))
	s.want("message 5 text own", "sent m 5")
	s.advance(time.Second) // m is answered: its retry window does not count for the others
	for i := range atOnce + 1 {
		s.send("text", fmt.Sprint("m", i))
	}
	for i := range atOnce {
		c.takes("text", fmt.Sprint("m", i))
	}
	for i := range 10 {
		s.advance(10 * time.Second)
		c.put(says(int64(6+i), "u_bob", "here")) // so that the link is not taken for broken
		s.want(fmt.Sprintf("message %d here", 6+i))
	}
	s.advance(10 * time.Second)
	for i := range atOnce {
		s.want(fmt.Sprintf("failed m%d UNCONFIRMED", i))
	}
	for f := c.next(); f.ID != fmt.Sprint("m", atOnce); f = c.next() {
		if f.Type != wire.TypePing {
			t.Fatalf("the client sent %s %s", f.Type, f.ID)
		}
	}
}

func testRefusedForNow(t *testing.T, s *scripted) {
	c := inRoom(s)
	for i, code := range []wire.Code{wire.RateLimited, wire.Unavailable} {
		id := fmt.Sprint("m", i)
		s.send("text", id)
		c.takes("text", id)
		c.put(refusal(code, id))
		s.want(fmt.Sprintf("error %s %s retrying", code, id))
		s.advance(time.Second)
		c.takes("text", id)
		c.put(echo(int64(5+i), me, "text", id))
		s.want(fmt.Sprintf("message %d text own", 5+i), fmt.Sprintf("sent %s %d", id, 5+i))
		s.advance(75 * time.Millisecond) // the pace after a refusal
	}
	s.advance(10 * time.Second) // after this time the pace is forgotten
	for i := range 3 {
		id := fmt.Sprint("m", 2+i)
		s.send("text", id)
		c.takes("text", id)
	}
}

func testPace(t *testing.T, s *scripted) {
	c := inRoom(s)
	seq := int64(4)
	sends := func(id string) {
		s.send("text", id)
		c.takes("text", id)
	}
	answered := func(id string) {
		seq++
		c.put(echo(seq, me, "text", id))
		s.want(fmt.Sprintf("message %d text own", seq), fmt.Sprintf("sent %s %d", id, seq))
	}
	sends("m1")
	for i, ms := range []int{75, 150, 300, 600, 1200, 2400, 4800, 5000, 5000} {
		c.put(refusal(wire.RateLimited, "m1"))
		s.want("error RATE_LIMITED m1 retrying")
		// The echo of another message does not reset the pace.
		other := fmt.Sprint("other ", i)
		s.send("text", other)
		s.writesAfter(time.Second)
		c.takes("text", "m1")
		s.writesAfter(time.Duration(ms) * time.Millisecond)
		c.takes("text", other)
		answered(other)
	}
	answered("m1")
	s.advance(10 * time.Second)
	for i, ms := range []int{2500, 1250} { // halved every 10 s
		first, second := fmt.Sprint("first ", i), fmt.Sprint("second ", i)
		s.send("text", first)
		s.send("text", second)
		c.takes("text", first)
		s.writesAfter(time.Duration(ms) * time.Millisecond)
		c.takes("text", second)
		answered(first)
		answered(second)
		s.advance(10 * time.Second)
	}
}

// During an outage one message at a time is sent, to find out whether it is over.
func testProbe(t *testing.T, s *scripted) {
	c := inRoom(s)
	for i := range 3 {
		s.send("text", fmt.Sprint("m", i))
	}
	for i := range 3 {
		c.takes("text", fmt.Sprint("m", i))
		c.put(refusal(wire.Unavailable, fmt.Sprint("m", i)))
		s.want(fmt.Sprintf("error UNAVAILABLE m%d retrying", i))
	}
	for range 4 {
		s.writesAfter(time.Second)
		c.takes("text", "m0")
		c.put(refusal(wire.Unavailable, "m0"))
		s.want("error UNAVAILABLE m0 retrying")
	}
	s.writesAfter(time.Second)
	c.takes("text", "m0")
	c.put(echo(5, me, "text", "m0"))
	s.want("message 5 text own", "sent m0 5")
	c.takes("text", "m1")
	c.takes("text", "m2") // without a pause
}

func testErrorBehindEcho(t *testing.T, s *scripted) {
	c := inRoom(s)
	s.send("text", "m1")
	c.takes("text", "m1")
	c.close(1006)
	c = comesBack(s)
	c.joined("e", 4, true)
	c.takes("text", "m1") // again
	c.put(echo(5, me, "text", "m1"), refusal(wire.RateLimited, "m1"), says(6, "u_bob", "next"))
	s.want("joined 4 again", "message 5 text own", "sent m1 5", "message 6 next")
	s.send("text", "m2")
	c.takes("text", "m2") // the ERROR holds nothing back
}

func testOneID(t *testing.T, s *scripted) {
	c := inRoom(s)
	s.send("text", "m1")
	s.send("text", "m1")
	c.takes("text", "m1")
	c.put(echo(5, me, "text", "m1"))
	s.want("message 5 text own", "sent m1 5", "sent m1 5")
	tooLong := strings.Repeat("x", 65)
	s.send("text", "")
	s.send("text", tooLong)
	s.want("failed BAD_REQUEST", "failed "+tooLong+" BAD_REQUEST")
}

func testBacklog(t *testing.T, s *scripted) {
	c := inRoom(s)
	const most, all = 32, 50
	s.run("for (let i = 0; i < %d; i++) harness.send('text', 'm' + i)", all)
	for i := range all {
		c.takes("text", fmt.Sprint("m", i))
		if i < most-1 {
			continue
		}
		if len(c.frames) > 0 {
			t.Fatalf("more than %d are on their way", most)
		}
		c.put(echo(int64(5+i-most+1), me, "text", fmt.Sprint("m", i-most+1)))
	}
}
