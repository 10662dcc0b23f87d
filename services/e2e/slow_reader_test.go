package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// slowReader is a member whose socket can be left unread.
type slowReader struct {
	*testing.T
	valve  *valve
	member *client.Member

	mu     sync.Mutex // guards what follows
	seq    int64
	slow   int // closes with 4508
	wrong  []string
	events sync.WaitGroup
}

func newSlowReader(t *testing.T, base, roomID string) *slowReader {
	t.Helper()
	r := &slowReader{T: t, valve: &valve{}}
	r.valve.cond.L = &r.valve.mu
	c, err := client.New(base, client.WithDialContext(r.valve.dial))
	must(t, err)
	r.member, err = c.Enter(within(t, soon), client.MemberOptions{
		RoomID: roomID, Jitter: func(time.Duration) time.Duration { return 0 },
	})
	must(t, err)
	t.Cleanup(func() { r.valve.set(false); r.member.Abort(); r.events.Wait() })
	r.events.Go(r.follow)
	return r
}

func (r *slowReader) stall(shut bool) { r.valve.set(shut) }

func (r *slowReader) reached() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seq
}

// follow checks that the member's events are the log.
func (r *slowReader) follow() {
	for e := range r.member.Events() {
		r.mu.Lock()
		switch e.Type {
		case wire.TypeJoined:
			if r.seq == 0 {
				r.seq = e.Seq
			} else if !e.Recovered {
				r.wrong = append(r.wrong, "came back and had not recovered")
			}
		case client.TypeDisconnected:
			if end, ok := errors.AsType[*client.CloseError](e.Cause); ok && end.Code == wire.CloseSlowConsumer {
				r.slow++
			} else {
				r.wrong = append(r.wrong, e.Cause.Error())
			}
		case wire.TypeGap:
			r.wrong = append(r.wrong, fmt.Sprintf("a GAP from %d to %d", e.GapFrom, e.GapTo))
			r.seq = e.GapTo
		case wire.TypeMessage, wire.TypeMemberJoined:
			if e.Seq != r.seq+1 {
				r.wrong = append(r.wrong, fmt.Sprintf("seq %d came after %d", e.Seq, r.seq))
			}
			r.seq = e.Seq
		}
		r.mu.Unlock()
	}
}

func (r *slowReader) judge() {
	r.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	// There can be more closes if this process was held up, since it reads through a small buffer.
	if r.slow < slowStops {
		r.Errorf("closed with 4508 %d times, it stopped reading %d times", r.slow, slowStops)
	}
	for _, what := range r.wrong {
		r.Error("the slow reader: " + what)
	}
}

// valve blocks reading from its connections while it is shut. The kernel's buffers for them
// are small.
type valve struct {
	mu   sync.Mutex
	cond sync.Cond
	shut bool // guarded by mu
}

const slowKernel = 8 << 10 // bytes of SO_RCVBUF

func (v *valve) set(shut bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.shut = shut
	v.cond.Broadcast()
}

func (v *valve) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, slowKernel)
		})
		if err != nil {
			return err
		}
		return failed
	}}
	c, err := d.DialContext(ctx, network, addr)
	return &valved{c, v}, err
}

type valved struct {
	net.Conn
	valve *valve
}

func (c *valved) Read(p []byte) (int, error) {
	c.valve.mu.Lock()
	for c.valve.shut {
		c.valve.cond.Wait()
	}
	c.valve.mu.Unlock()
	return c.Conn.Read(p)
}
