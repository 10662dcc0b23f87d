package pace

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// crowd is all rooms and members of a shape.
type crowd struct {
	cfg     Config
	rooms   []*room
	members []*member // room by room
	readers []*reader
	joins   histogram // how long each took

	// Totals of all that was read, updated once for each read.
	delivered, bytes atomic.Int64

	// Latency counts only for messages that are due between from and until. Both are set while
	// nothing is read.
	from, until time.Duration
	latencies   histogram
}

// reader reads for some of the members. There is one for each target, but not more than
// there are cores. With a single reader, the last member of a big room would get a message
// only after all others had been read, for which no gateway is to blame.
type reader struct {
	poller *poller
	frames []byte // a batch of messages; belongs to the poller's lock
}

// room is a room of this run.
type room struct {
	id      string
	sent    atomic.Int64
	refused atomic.Int64 // how many of them were answered with ERROR
}

func newCrowd(cfg Config) (*crowd, error) {
	c := &crowd{cfg: cfg}
	run := strings.ToLower(rand.Text()[:8])
	for i := range cfg.Shape.Rooms {
		c.rooms = append(c.rooms, &room{id: fmt.Sprintf("%s-%s-%d", cfg.Shape.Name, run, i)})
	}
	for range min(len(cfg.Targets), runtime.GOMAXPROCS(0)) {
		p, err := newPoller()
		if err != nil {
			return nil, err
		}
		c.readers = append(c.readers, &reader{poller: p})
	}
	for i := range cfg.Shape.members() {
		m := &member{crowd: c, index: i, room: c.rooms[i/cfg.Shape.Size], target: i % len(cfg.Targets)}
		m.reader = c.readers[m.target%len(c.readers)]
		m.scan.whole = cfg.Shape.samples(i)
		c.members = append(c.members, m)
	}
	return c, nil
}

// locked runs do while nothing is read.
func (c *crowd) locked(do func()) {
	for _, r := range c.readers {
		locked := do
		do = func() { r.poller.locked(locked) }
	}
	do()
}

// close makes all members leave.
func (c *crowd) close() {
	bye := clientFrame(opClose, []byte{1000 >> 8, 1000 & 0xff})
	for _, m := range c.members {
		if m.sock != nil {
			_ = m.sock.write(bye) // a member that is gone already has left
		}
	}
	for _, r := range c.readers {
		r.poller.close()
	}
	for _, m := range c.members {
		if m.sock != nil {
			m.sock.close()
		}
	}
}

// prepare creates the rooms and an identity for each member.
func (c *crowd) prepare(ctx context.Context) error {
	c.cfg.Progress(fmt.Sprintf("make %d rooms and %d identities", len(c.rooms), len(c.members)))
	err := c.each(ctx, len(c.rooms), func(ctx context.Context, i int, calls []*caller) error {
		body := fmt.Sprintf(`{"roomId":%q,"capacity":%d,"emptyTimeoutSeconds":3600}`, c.rooms[i].id, c.cfg.Shape.Size)
		_, err := calls[i%len(calls)].call(ctx, "POST", "/v1/rooms", "", body, 201)
		return err
	})
	if err != nil {
		return err
	}
	return c.each(ctx, len(c.members), func(ctx context.Context, i int, calls []*caller) error {
		m := c.members[i]
		answer, err := calls[m.target].call(ctx, "POST", "/v1/identities", "", "{}", 201)
		if err == nil {
			m.identity, err = field(answer, "identity")
		}
		return err
	})
}

// seat makes members join, as many at once as the configuration says.
func (c *crowd) seat(ctx context.Context, members []*member) error {
	return c.each(ctx, len(members), func(ctx context.Context, i int, calls []*caller) error {
		began := now()
		if err := members[i].enter(ctx, calls[members[i].target]); err != nil {
			return fmt.Errorf("join %d: %w", members[i].index, err)
		}
		c.joins.add(now() - began)
		return nil
	})
}

// each calls do for 0 to n-1 on AtOnce goroutines, each of which has connections of its own
// to every target. The first error ends it.
func (c *crowd) each(ctx context.Context, n int, do func(ctx context.Context, i int, calls []*caller) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(c.cfg.AtOnce, n) {
		all.Go(func() {
			var calls []*caller
			for _, target := range c.cfg.Targets {
				call, err := newCaller(target)
				if err != nil {
					cancel(err)
					return
				}
				defer call.close()
				calls = append(calls, call)
			}
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := do(ctx, i, calls); err != nil {
					cancel(err)
				}
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

// sent returns how many messages have been sent.
func (c *crowd) sent() (n int64) {
	for _, r := range c.rooms {
		n += r.sent.Load()
	}
	return n
}

// enter reserves, connects and waits for JOINED.
func (m *member) enter(ctx context.Context, call *caller) error {
	answer, err := call.call(ctx, "POST", "/v1/rooms/"+m.room.id+"/permits", m.identity, "", 201)
	if err != nil {
		return err
	}
	path, err := field(answer, "url")
	if err != nil {
		return err
	}
	conn, err := dial(ctx, call.address)
	if err != nil {
		return err
	}
	in, _ := readers.Get().(*bufio.Reader)
	defer readers.Put(in)
	seq, already, err := upgrade(conn, call.host, path, in)
	if err != nil {
		conn.Close()
		return err
	}
	m.last = seq
	return m.reader.poller.add(conn, m, already)
}

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4<<10) }}
