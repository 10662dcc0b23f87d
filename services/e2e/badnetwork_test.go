package e2e

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
	"github.com/anteroom-chat/anteroom/services/e2e/toxic"
)

const (
	// halfOpenNoticed is how long a half-open Redis may go unnoticed.
	halfOpenNoticed = 5 * time.Second
	// halfOpenMended is how long it may take until all hear each other again, if new
	// connections work: to notice, to connect again, and to read from the log.
	halfOpenMended = halfOpenNoticed + 2*time.Second
)

// badNetwork is a cluster whose first gateway reaches Redis through a toxic proxy, and
// members who talk through both gateways.
type badNetwork struct {
	*talk
	proxy *toxic.Proxy
	plain *client.Session // a socket at the first gateway, for ask only
	rows  [][2]any
}

// This is the longest of the parallel tests. The name of its file makes it start first.
func TestNothingIsLostOverABadNetworkToRedis(t *testing.T) {
	t.Parallel()
	n := &badNetwork{}
	v := start(t, cluster.Options{Gateways: 2, RedisOf: func(gateway int, addr string) string {
		if gateway > 0 {
			return addr
		}
		var err error
		n.proxy, err = toxic.New(addr)
		must(t, err)
		t.Cleanup(n.proxy.Close)
		return n.proxy.Addr()
	}})
	n.talk = startTalk(t, v, talkOptions{rooms: 20, each: 10, every: time.Second, bases: []string{v.Gateways[0].URL(), v.Gateways[1].URL()}})
	n.plain = v.join(t, v.Gateways[0].URL(), v.room(t, client.RoomSpec{Capacity: 1}).RoomID, v.identity(t, "Plain"))

	n.stops()
	n.slows()
	n.cuts()
	n.halfOpens("half-open one way: no answers", toxic.Down)
	n.halfOpens("half-open one way: no requests", toxic.Up)
	n.halfOpens("half-open both ways", toxic.Up, toxic.Down)
	n.staysHalfOpen()

	n.finish(3 * soon)
	n.table("a toxic proxy between one of two gateways and Redis", n.rows...)
	n.judge()
}

// tell adds a row to the table.
func (n *badNetwork) tell(what, format string, args ...any) {
	n.rows = append(n.rows, [2]any{what, fmt.Sprintf(format, args...)})
}

// others reports whether the member came in through the gateway without the toxic proxy.
func (n *badNetwork) others(m *talker) bool { return m.base != n.v.Gateways[0].URL() }

func (n *badNetwork) stops() {
	n.Helper()
	n.proxy.Refuse()
	meanwhile := n.settled(soon, n.others)
	time.Sleep(2*time.Second - meanwhile)
	n.proxy.Heal()
	n.tell("stops for 2 s", "all hear each other %.2f s after its end, the others all the while", n.settled(soon, nil).Seconds())
}

func (n *badNetwork) slows() {
	n.Helper()
	n.proxy.Set(toxic.Quality{Latency: 150 * time.Millisecond, Bandwidth: 256 << 10})
	d := n.settled(2*soon, nil)
	time.Sleep(2 * time.Second)
	n.tell("slow: 150 ms each way, 256 KiB/s", "all hear each other within %.2f s", max(d, n.settled(2*soon, nil)).Seconds())
	n.proxy.Heal()
	n.settled(soon, nil)
}

func (n *badNetwork) cuts() {
	n.Helper()
	const cuts = 20
	for range cuts {
		n.proxy.Cut()
		time.Sleep(100 * time.Millisecond)
	}
	n.tell(fmt.Sprintf("cuts %d times in 2 s", cuts), "all hear each other %.2f s after the last", n.settled(soon, nil).Seconds())
}

// halfOpens makes the existing connections half-open; new ones work.
func (n *badNetwork) halfOpens(what string, ways ...toxic.Direction) {
	n.Helper()
	n.proxy.HalfOpen(false, ways...)
	began := time.Now()
	answer := n.ask()
	n.settled(halfOpenNoticed, n.others)
	answered := n.wantAnswer(answer)
	n.settled(2*soon, nil)
	mended := time.Since(began)
	n.tell(what, "a message is answered after %.2f s, all hear each other after %.2f s", answered.Seconds(), mended.Seconds())
	if mended > halfOpenMended {
		n.Errorf("%s: all hear each other after %v only", what, mended)
	}
	n.proxy.Heal()
	n.settled(soon, nil)
}

// staysHalfOpen makes new connections half-open too, for longer than that may go unnoticed.
func (n *badNetwork) staysHalfOpen() {
	n.Helper()
	n.proxy.HalfOpen(true, toxic.Up, toxic.Down)
	began := time.Now()
	answer := n.ask()
	eventually(n.T, soon, "the gateway is not ready", func() bool {
		return status(n.v.Gateways[0].URL()+"/readyz") == http.StatusServiceUnavailable
	})
	unready := time.Since(began)
	if unready > halfOpenNoticed {
		n.Errorf("the gateway was ready for %v more", unready)
	}
	n.settled(halfOpenNoticed, n.others)
	answered := n.wantAnswer(answer)
	time.Sleep(time.Until(began.Add(halfOpenNoticed + time.Second)))
	n.proxy.Heal()
	n.tell("half-open for 6 s, new connections too", "a message is refused after %.2f s, not ready after %.2f s, all hear each other %.2f s after its end",
		answered.Seconds(), unready.Seconds(), n.settled(2*soon, nil).Seconds())
}

// answer is the outcome of a message: after an echo or ERROR, err is nil.
type answer struct {
	after time.Duration
	err   error
}

// ask sends a message through the bad network.
func (n *badNetwork) ask() <-chan answer {
	ctx, asked, answers := within(n.T, soon), time.Now(), make(chan answer, 1)
	id := rand.Text()
	go func() {
		err := n.plain.Send(ctx, id, "anybody?")
		for err == nil {
			f, failed := n.plain.Receive(ctx)
			if err = failed; f.ID == id {
				break
			}
		}
		answers <- answer{time.Since(asked), err}
	}()
	return answers
}

// wantAnswer waits for the answer to ask, and returns how long it took.
func (n *badNetwork) wantAnswer(answers <-chan answer) time.Duration {
	n.Helper()
	a := <-answers
	if a.err != nil || a.after > halfOpenNoticed {
		n.Errorf("a message was answered after %v (%v)", a.after, a.err)
	}
	return a.after
}

// status returns the status of a GET, 0 if there is no answer.
func status(url string) int {
	resp, err := http.Get(url)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	return resp.StatusCode
}
