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

// TypeDisconnected is the type of an Event that is no frame: the connection was lost
// and the Member is on its way back.
const TypeDisconnected = "DISCONNECTED"

// Event is one step of what happens in a room. Its Type says which:
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
	Cause error // of ERROR and DISCONNECTED
}

// MemberOptions say who enters what. Only RoomID is required.
type MemberOptions struct {
	RoomID   string
	Nickname string
	// Identity is Identity.Identity. Without one, an anonymous user is made by HTTP
	// first, so that every attempt to join is the same user's, until its identity has
	// expired (IDENTITY_TTL): then a return is another user's, which UserID tells.
	Identity string
	// Permit is for the first join, and needs the Identity that reserved it.
	Permit string
	// BaseURLs are tried in turn, the next after each failure; none means the Client's.
	BaseURLs []string
	// Buffer is how many Events wait for the application, 64 when 0. When it is full,
	// the Member stops reading its socket.
	Buffer int
	// Outbox is how many messages may wait for their echo before Post refuses, 256 when 0.
	Outbox int
	// MaxFrameBytes is the service's MAX_FRAME_BYTES, wire.DefaultFrameBytes when 0.
	// Send and Post refuse what is larger, which would end the connection with 1009.
	MaxFrameBytes int
	// Jitter picks a delay from 0 up to limit; nil is uniform and random.
	Jitter func(limit time.Duration) time.Duration
	// Trace, unless nil, is called with each frame as it came, from JOINED on, before
	// the Member drops doubles and fills holes with a GAP: for those who check the
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
// Lost connections come back by the close code (wire.CloseCode.Retryable), with full
// jitter from 0.5 s doubling to 20 s, and with the position, so that the Events are
// one unbroken sequence or hold a GAP. A Member ends, and its Events with it, with any
// other code or a refused attempt to come back, and with Leave, Close or Abort; Err says
// why.
//
// Read the Events: a Member whose Events are not read stops reading its socket, and
// neither echoes nor the end of the connection reach it.
type Member struct {
	opts    MemberOptions
	clients []*Client // one a base URL
	events  chan Event
	out     *outbox

	quitting context.Context // ends when the application wants out: no more joins, writes, events
	quit     context.CancelFunc
	hard     context.Context // ends to cut the connection
	cut      context.CancelFunc
	done     chan struct{}
	err      error // set before done is closed

	// Owned by Enter, then by run.
	at       int // index into clients of the next attempt
	identity string
	permit   string // empty once used
	tried    bool   // the permit was shown, with an outcome unknown
	backoff  backoff
	drainAt  time.Time // when to connect again after DRAINING; zero without one
	seatBack time.Time // when the seat is free of the user that this Member was before

	mu      sync.Mutex // guards what follows
	session *Session   // nil while away
	userID  string
	pos     *wire.Position // of the newest Event; nil before the first JOINED
}

// Enter joins a room and stays. It returns once the first join was confirmed, or with
// the error of a join that was refused; while the service is out of reach it goes on
// trying until ctx ends. ctx does not bound the Member. Whoever enters must end the
// Member with Leave, Close or Abort.
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

// Events yields what happens until the Member ends; leaving the loop early loses
// nothing. At most one goroutine at a time reads Events or Next.
//
// Send waits for an echo that comes behind the Events before it, so the goroutine that
// reads Events answers with Post.
func (m *Member) Events() iter.Seq[Event] {
	return func(yield func(Event) bool) {
		for e := range m.events {
			if !yield(e) {
				return
			}
		}
	}
}

// Next waits for one Event. At the end the error is Err, or ErrClosed where that is nil.
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

// Done is closed when the Member has ended and its goroutines with it.
func (m *Member) Done() <-chan struct{} { return m.done }

// Err says why the Member ended: nil before that and after Leave, Close or Abort;
// otherwise a *CloseError, what Join returned on the way back, or ErrProtocol.
func (m *Member) Err() error {
	select {
	case <-m.done:
		return m.err
	default:
		return nil
	}
}

// Position is the place in the log that the Events have reached; those that still wait
// in the buffer count too.
func (m *Member) Position() wire.Position {
	m.mu.Lock()
	defer m.mu.Unlock()
	return *m.pos
}

// UserID says who the Member is in the room.
func (m *Member) UserID() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.userID
}

// Session is the present connection, nil while away. It is there to be looked at, and
// to be cut by tests; its frames belong to the Member.
func (m *Member) Session() *Session {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.session
}

// Send delivers body, any JSON value, to the room and answers with the seq of its echo.
// It is delivered once, across lost connections, refusals with UNAVAILABLE and
// RATE_LIMITED, which only delay it. Errors: a *wire.Error for a body that is refused;
// why the Member or ctx ended, which is also ErrUnconfirmed where the message may have
// been delivered; ErrUnconfirmed alone after 110 s without an answer.
//
// Messages of concurrent Sends may change places; a Send after the return of another
// is behind it in the log.
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
	case r := <-msg.done: // it came in between
		return r.seq, r.err
	default:
	}
	if uncertain {
		return 0, fmt.Errorf("client: send: %w: %w", ErrUnconfirmed, ctx.Err())
	}
	return 0, fmt.Errorf("client: send: %w", ctx.Err())
}

// Post is Send without waiting: the echo, with the id that Post returns, or else an
// ERROR comes with the Events; its Cause is ErrUnconfirmed where Send's error would be.
// What is unanswered when the Member ends is not told of. Post never blocks.
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

// Leave gives the seat up and ends the Member. It returns nil when the service
// confirmed it, ErrAway when there was no connection.
func (m *Member) Leave(ctx context.Context) error {
	defer m.stop()
	m.quit()
	s := m.Session()
	if s == nil {
		return ErrAway
	}
	return s.Leave(ctx)
}

// Close ends the Member with close code 1001, which gives the seat up, waiting up to
// 10 s for the other side.
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
