package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// TypeDisconnected is the type of an Event that is not a frame: the connection was lost and
// the Member is reconnecting.
const TypeDisconnected = "DISCONNECTED"

// Event is one thing that happened in a room. Its Type says what:
//
//	JOINED         at first, and after each return to the room. Another Epoch than
//	               before means another room of that id, whose log starts anew
//	MESSAGE        entries of the log, each once, in the order of seq
//	MEMBER_JOINED
//	MEMBER_LEFT
//	GAP            the entries GapFrom…GapTo will not come
//	OCCUPANCY
//	ERROR          about a message of Post (its ID), or about none; Cause has it as error
//	DISCONNECTED   Cause is why: a *CloseError, with 1012 where the Member moves since its
//	               gateway is going away
type Event struct {
	wire.ServerFrame
	Cause error // for ERROR and DISCONNECTED
}

// MemberOptions say who enters which room. Only RoomID is required.
type MemberOptions struct {
	RoomID   string
	Nickname string
	// Identity is Identity.Identity. If it is empty, an anonymous user is made by HTTP first,
	// so that every attempt to join is made by the same user, until the identity expires
	// (IDENTITY_TTL). Then the Member comes back as another user, which UserID shows.
	Identity string
	// Permit is used for the first join. It needs the Identity that reserved it.
	Permit string
	// BaseURLs are tried in turn, the next one after each failure. If there are none, the
	// Client's is used.
	BaseURLs []string
	// Buffer is how many Events wait for the application, 64 when 0. When it is full,
	// the Member stops reading its socket.
	Buffer int
	// Outbox is how many messages may wait for their echo before Post refuses more, 256 when
	// 0.
	Outbox int
	// MaxFrameBytes is the service's MAX_FRAME_BYTES, wire.DefaultFrameBytes when 0. Send and
	// Post refuse a larger frame, which would end the connection with 1009.
	MaxFrameBytes int
	// Jitter picks a delay from 0 up to limit. If it is nil, the delay is uniform and random.
	Jitter func(limit time.Duration) time.Duration
	// Trace, unless nil, is called with each frame as it arrives, from JOINED on, before the
	// Member drops duplicates and reports holes as a GAP. It is for programs that check the
	// service. It must not call the Member, which waits for it.
	Trace func(f wire.ServerFrame)
}

func (o MemberOptions) withDefaults() (MemberOptions, error) {
	if o.Permit != "" && o.Identity == "" {
		return o, errors.New("client: enter: a permit needs the identity that reserved it")
	}
	if o.Buffer < 0 || o.Outbox < 0 || o.MaxFrameBytes < 0 {
		return o, errors.New("client: enter: Buffer, Outbox and MaxFrameBytes cannot be below 0")
	}
	if o.Buffer == 0 {
		o.Buffer = 64
	}
	if o.Outbox == 0 {
		o.Outbox = 256
	}
	if o.MaxFrameBytes == 0 {
		o.MaxFrameBytes = wire.DefaultFrameBytes
	}
	if o.Jitter == nil {
		o.Jitter = func(limit time.Duration) time.Duration { return rand.N(limit + 1) }
	}
	if o.Trace == nil {
		o.Trace = func(wire.ServerFrame) {}
	}
	return o, nil
}

// Member is a user in a room across connections.
//
// After a lost connection the Member joins again if the close code allows it
// (wire.CloseCode.Retryable), with full jitter from 0.5 s doubling to 20 s. It sends its
// position, so that the Events are one unbroken sequence or contain a GAP. A Member and its
// Events end with any other close code, with a refused attempt to join again, and with Leave,
// Close or Abort. Err says why.
//
// The application must read the Events. Otherwise the Member stops reading its socket, and
// receives neither echoes nor the end of the connection.
type Member struct {
	opts    MemberOptions
	clients []*Client // one for each base URL
	events  chan Event
	out     *outbox

	quitting context.Context // ends when the application quits: no more joins, writes, events
	quit     context.CancelFunc
	hard     context.Context // ends to cut the connection
	cut      context.CancelFunc
	done     chan struct{}
	err      error // set before done is closed

	// Owned by Enter, then by run.
	at       int // index into clients of the next attempt
	identity string
	permit   string // empty once used
	tried    bool   // the permit was sent, and the outcome is unknown
	backoff  backoff
	drainAt  time.Time // when to connect again after DRAINING; zero without one
	seatBack time.Time // when the seat of this Member's former user is free

	mu      sync.Mutex // guards what follows
	session *Session   // nil while away
	userID  string
	pos     *wire.Position // of the newest Event; nil before the first JOINED
}

// Enter joins a room and keeps the Member in it. It returns once the first join has been
// confirmed, or with the error of a join that was refused. While the service is out of reach
// it keeps trying until ctx ends; a wrong address looks the same, also if something else answers
// there. ctx does not limit the life of the Member. The caller must end the Member with Leave,
// Close or Abort.
func (c *Client) Enter(ctx context.Context, o MemberOptions) (*Member, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	clients := []*Client{c}
	if len(o.BaseURLs) > 0 {
		clients = nil
	}
	for _, base := range o.BaseURLs {
		other, err := c.At(base)
		if err != nil {
			return nil, err
		}
		clients = append(clients, other)
	}
	m := &Member{
		opts: o, clients: clients, identity: o.Identity, permit: o.Permit,
		events: make(chan Event, o.Buffer), done: make(chan struct{}),
		out: newOutbox(o.Outbox, o.Jitter), backoff: backoff{jitter: o.Jitter},
	}
	s, err := m.join(ctx, 0)
	if err != nil {
		return nil, err
	}
	m.quitting, m.quit = context.WithCancel(context.Background())
	m.hard, m.cut = context.WithCancel(context.Background())
	m.attach(s)
	go m.run(s)
	return m, nil
}

// Events yields events until the Member ends. Leaving the loop early loses nothing. At most
// one goroutine at a time may read Events or Next.
//
// Send waits for an echo, which comes after the Events that precede it. So a goroutine that
// reads Events must answer with Post, not Send.
func (m *Member) Events() iter.Seq[Event] {
	return func(yield func(Event) bool) {
		for e := range m.events {
			if !yield(e) {
				return
			}
		}
	}
}

// Next waits for one Event. At the end it returns the error of Err, or ErrClosed if that is
// nil.
func (m *Member) Next(ctx context.Context) (Event, error) {
	select {
	case e, ok := <-m.events:
		if ok {
			return e, nil
		}
		<-m.done
		if m.err != nil {
			return Event{}, m.err
		}
		return Event{}, ErrClosed
	case <-ctx.Done():
		return Event{}, fmt.Errorf("client: next event: %w", ctx.Err())
	}
}

// Done returns a channel that is closed when the Member and its goroutines have ended.
func (m *Member) Done() <-chan struct{} { return m.done }

// Err returns why the Member ended. It is nil before that, and after Leave, Close or Abort.
// Otherwise it is a *CloseError, the error of an attempt to join again, or ErrProtocol.
func (m *Member) Err() error {
	select {
	case <-m.done:
		return m.err
	default:
		return nil
	}
}

// Position returns the place in the log that the Events have reached, including those that
// are still in the buffer.
func (m *Member) Position() wire.Position {
	m.mu.Lock()
	defer m.mu.Unlock()
	return *m.pos
}

// UserID returns the id of the user that the Member is in the room.
func (m *Member) UserID() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.userID
}

// Session returns the current connection, or nil while there is none. It is there for
// inspection, and for tests that cut it. Its frames belong to the Member.
func (m *Member) Session() *Session {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.session
}

// Send delivers body, any JSON value, to the room and returns the seq of its echo. The
// message is delivered once, whatever connections are lost. Refusals with UNAVAILABLE or
// RATE_LIMITED only delay it. Errors: a *wire.Error if the body is refused; the reason why
// the Member or ctx ended, joined with ErrUnconfirmed if the message may have been delivered;
// ErrUnconfirmed alone after 110 s without an answer.
//
// Messages of concurrent Sends may be delivered in any order. A Send that begins after
// another has returned comes after it in the log.
func (m *Member) Send(ctx context.Context, body any) (seq int64, err error) {
	msg, err := m.enqueue(body, make(chan outcome, 1))
	if err != nil {
		return 0, err
	}
	select {
	case r := <-msg.done:
		return r.seq, r.err
	case <-ctx.Done():
	}
	uncertain := m.out.forget(msg)
	select {
	case r := <-msg.done: // the outcome arrived in the meantime
		return r.seq, r.err
	default:
	}
	if uncertain {
		return 0, fmt.Errorf("client: send: %w: %w", ErrUnconfirmed, ctx.Err())
	}
	return 0, fmt.Errorf("client: send: %w", ctx.Err())
}

// Post is like Send but does not wait and never blocks. The Events bring the echo, which has
// the id that Post returns, or else an ERROR, whose Cause is ErrUnconfirmed if Send would
// return that. Messages that are unanswered when the Member ends are not reported.
func (m *Member) Post(body any) (id string, err error) {
	msg, err := m.enqueue(body, nil)
	if err != nil {
		return "", err
	}
	return msg.id, nil
}

func (m *Member) enqueue(body any, done chan outcome) (*outgoing, error) {
	id := m.out.newID()
	frame, err := encodeMessage(id, body)
	if err != nil {
		return nil, err
	}
	if len(frame) > m.opts.MaxFrameBytes {
		return nil, wire.Errorf(wire.BadRequest, "the frame has %d bytes, the limit is %d", len(frame), m.opts.MaxFrameBytes)
	}
	msg := &outgoing{id: id, frame: frame, done: done}
	return msg, m.out.add(msg)
}

// Leave gives the seat up and ends the Member. It returns nil if the service confirmed that,
// and ErrAway if there was no connection.
func (m *Member) Leave(ctx context.Context) error {
	defer m.stop()
	m.quit()
	s := m.Session()
	if s == nil {
		return ErrAway
	}
	return s.Leave(ctx)
}

// Close ends the Member with close code 1001, which gives the seat up. It waits up to 10 s
// for the other side.
func (m *Member) Close() error {
	defer m.stop()
	m.quit()
	if s := m.Session(); s != nil {
		return s.Close(wire.CloseGoingAway)
	}
	return nil
}

// Abort ends the Member as a crash would: the seat stays taken for the rest of its lease.
func (m *Member) Abort() { m.stop() }

func (m *Member) stop() {
	m.quit()
	m.cut()
	<-m.done
}
