package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
)

const (
	slowMembers  = 50
	slowMeasured = 8    // of the others
	slowRate     = 1000 // messages a second, of one member
	slowBody     = 1200 // bytes: 256 KiB are 200 entries, well within history
	slowStops    = 6    // how often the slow reader stops reading
	// slowBehind is how many entries the slow reader misses each time before it reads on:
	// more than the kernel and the gateway buffer for it, but fewer than history keeps.
	slowBehind = 600
	// slowMost is how many entries it may be behind before the speaker waits for it: if the
	// machine stands still for a moment, it must not fall behind history.
	slowMost = 900
)

// memoryEvery is how often the gateway is made to collect its garbage and asked for its memory.
const memoryEvery = 250 * time.Millisecond

// loud is a room in which one member says slowRate messages a second, and the others
// measure how long each takes.
type loud struct {
	*testing.T
	speaker *client.Session
	reader  atomic.Pointer[slowReader]
	stop    context.CancelFunc
	all     sync.WaitGroup // the speaker

	mu    sync.Mutex // guards what follows
	seq   int64      // the newest seq that the speaker received
	delay []time.Duration
}

// said is the body of a message.
type said struct {
	At   int64  `json:"at"` // ns
	Fill string `json:"fill"`
}

func TestASlowReaderIsClosedComesBackAndCostsNobodyElseAnything(t *testing.T) {
	v := start(t, cluster.Options{Gateways: 1, Settings: []string{"MESSAGE_RATE=0"}})
	gateway := v.Gateways[0]
	c, err := v.At(gateway.URL())
	must(t, err)
	room, err := c.CreateRoom(t.Context(), client.RoomSpec{Capacity: slowMembers})
	must(t, err)
	l := startLoud(t, v, gateway.URL(), room.RoomID)
	reader := newSlowReader(t, gateway.URL(), room.RoomID)
	l.reader.Store(reader)

	l.window(2 * time.Second) // to warm up
	calm := measure(l, gateway, func() { l.window(5 * time.Second) })
	slow := measure(l, gateway, func() {
		for range slowStops {
			from := l.reached()
			reader.stall(true)
			eventually(t, soon, "the slow one has missed enough", func() bool { return l.reached() >= from+slowBehind })
			reader.stall(false)
			eventually(t, soon, "the slow one is up to date", func() bool { return reader.reached() >= from+slowBehind })
			l.window(200 * time.Millisecond)
		}
	})
	l.end()
	last := l.reached()
	eventually(t, soon, "the slow one is complete", func() bool { return reader.reached() >= last })
	reader.judge()
	printSlow(t, calm, slow, reader)
	if grown := slow.heap - calm.heap; grown > 1<<20 {
		t.Errorf("the gateway's live memory grew by %d KiB", grown>>10)
	}
}

// startLoud makes all members but the slow reader join, and starts the speaker.
func startLoud(t *testing.T, v *venue, base, roomID string) *loud {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	l := &loud{T: t, stop: stop}
	t.Cleanup(l.end)
	for i := range slowMembers - 1 {
		if i >= slowMeasured {
			l.sink(base, roomID)
			continue
		}
		s := v.join(t, base, roomID, v.identity(t, ""))
		if i == 0 {
			l.speaker = s
		}
		go l.listen(ctx, s)
	}
	l.all.Go(func() { l.speak(ctx) })
	return l
}

// speak sends slowRate messages a second. After a late tick it sends what is due then.
func (l *loud) speak(ctx context.Context) {
	fill, began := strings.Repeat("x", slowBody), time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for n := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if r := l.reader.Load(); r != nil && l.reached()-r.reached() > slowMost {
			began = time.Now().Add(-time.Duration(n) * time.Second / slowRate)
		}
		for due := int(time.Since(began) * slowRate / time.Second); n < due; n++ {
			if err := l.speaker.Send(context.Background(), "", said{time.Now().UnixNano(), fill}); err != nil {
				l.Errorf("message %d: %v", n, err)
				return
			}
		}
	}
}

// sink makes a member join whose bytes are read and dropped: decoding fifty thousand frames a
// second would take more CPU than sending them.
func (l *loud) sink(base, roomID string) {
	l.Helper()
	var conn net.Conn
	c, err := client.New(base, client.WithDialContext(func(ctx context.Context, network, addr string) (net.Conn, error) {
		var err error
		conn, err = new(net.Dialer).DialContext(ctx, network, addr)
		return conn, err
	}))
	must(l.T, err)
	s, err := c.Join(within(l.T, soon), client.JoinOptions{RoomID: roomID})
	must(l.T, err)
	l.Cleanup(s.Abort)
	go func() {
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, 64<<10))
	}()
}

// listen measures the delay of each message until the session ends.
func (l *loud) listen(ctx context.Context, s *client.Session) {
	for {
		frame, err := s.ReceiveRaw(context.Background())
		if err != nil {
			if ctx.Err() == nil {
				l.Errorf("one of the others: %v", err)
			}
			return
		}
		at := number(frame, `"at":`)
		if at == 0 {
			continue // a join
		}
		l.mu.Lock()
		l.delay = append(l.delay, time.Duration(time.Now().UnixNano()-at))
		if s == l.speaker {
			l.seq = number(frame, `"seq":`)
		}
		l.mu.Unlock()
	}
}

// number returns the integer after a name, 0 if there is none.
func number(frame []byte, name string) (n int64) {
	_, rest, _ := bytes.Cut(frame, []byte(name))
	for _, digit := range rest {
		if digit < '0' || digit > '9' {
			break
		}
		n = 10*n + int64(digit-'0')
	}
	return n
}

func (l *loud) reached() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seq
}

// window waits until the room has had as many messages as are due in the time d.
func (l *loud) window(d time.Duration) {
	l.Helper()
	until := l.reached() + int64(slowRate*d/time.Second)
	eventually(l.T, 10*d+soon, fmt.Sprintf("%v of messages", d), func() bool { return l.reached() >= until })
}

// end silences the speaker; the listeners end with the test.
func (l *loud) end() {
	l.stop()
	l.all.Wait()
}

// figures is what was measured over some time.
type figures struct {
	p50, p99  time.Duration // of a message to one of the others
	rate      float64       // messages a second
	heap, rss int64         // of the gateway, bytes: live at the worst moment, resident
}

// measure measures the other members and the gateway while do runs.
func measure(l *loud, gateway *cluster.Process, do func()) figures {
	l.Helper()
	l.mu.Lock()
	l.delay = nil
	l.mu.Unlock()
	from, began, done := l.reached(), time.Now(), make(chan struct{})
	var m figures
	var sampling sync.WaitGroup
	sampling.Go(func() {
		var heaps []int64
		for {
			heap, rss, err := memory(gateway)
			if err != nil {
				l.Errorf("the gateway's memory: %v", err)
				return
			}
			heaps, m.rss = append(heaps, heap), max(m.rss, rss)
			select {
			case <-done:
				slices.Sort(heaps)
				m.heap = heaps[len(heaps)*9/10]
				return
			case <-time.After(memoryEvery):
			}
		}
	})
	do()
	close(done)
	sampling.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	m.rate = float64(l.seq-from) / time.Since(began).Seconds()
	slices.Sort(l.delay)
	m.p50, m.p99 = l.delay[len(l.delay)/2], l.delay[len(l.delay)*99/100]
	return m
}

// memory returns the gateway's live heap just after a garbage collection, and its resident
// memory.
func memory(gateway *cluster.Process) (heap, rss int64, err error) {
	for _, path := range []string{"/debug/pprof/heap?gc=1", "/metrics"} {
		resp, err := http.Get(gateway.AdminURL() + path)
		if err != nil {
			return 0, 0, err
		}
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() {
			name, value, _ := strings.Cut(lines.Text(), " ")
			n, _ := strconv.ParseFloat(value, 64)
			switch name {
			case "go_memstats_heap_alloc_bytes":
				heap = int64(n)
			case "process_resident_memory_bytes":
				rss = int64(n)
			}
		}
		_ = resp.Body.Close()
	}
	return heap, rss, nil
}

func printSlow(t *testing.T, calm, slow figures, r *slowReader) {
	t.Helper()
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	row := func(cells ...any) {
		for _, cell := range cells {
			_, _ = fmt.Fprintf(w, "%v\t", cell)
		}
		_, _ = fmt.Fprintln(w)
	}
	ms := func(d time.Duration) string { return fmt.Sprintf("%.2f ms", d.Seconds()*1000) }
	mib := func(n int64) string { return fmt.Sprintf("%.2f MiB", float64(n)/(1<<20)) }
	row("one slow reader of 50", "all read", "one stops, again and again", "difference")
	row("messages a second", int(calm.rate), int(slow.rate), "")
	row("p50 of the others", ms(calm.p50), ms(slow.p50), ms(slow.p50-calm.p50))
	row("p99 of the others", ms(calm.p99), ms(slow.p99), ms(slow.p99-calm.p99))
	row("gateway's live heap", mib(calm.heap), mib(slow.heap), mib(slow.heap-calm.heap))
	row("gateway's resident memory, most", mib(calm.rss), mib(slow.rss), mib(slow.rss-calm.rss))
	row("closed with 4508", "", r.slow, "")
	_ = w.Flush()
	t.Log("\n" + text.String())
}
