package gateway

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/memnet"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
)

// tcpSocket makes a socket over TCP, and returns its peer's end too.
func tcpSocket(t *testing.T) (*socket, net.Conn, *sync.WaitGroup) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, nc := connection(t, l)
	_ = nc.(*net.TCPConn).SetWriteBuffer(8 << 10)
	return newTestSocket(t, nc, peer)
}

// connection makes a new connection to a listener, and returns both ends.
func connection(t *testing.T, l net.Listener) (dialed, accepted net.Conn) {
	t.Helper()
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if accepted, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return dialed, accepted
}

// memSocket makes a socket over memnet, for virtual time. It writes nothing at once.
func memSocket(t *testing.T) (*socket, net.Conn, *sync.WaitGroup) {
	t.Helper()
	n := memnet.New()
	l, _ := n.Listen("gateway")
	defer l.Close()
	var peer net.Conn
	dialed := make(chan struct{})
	go func() {
		defer close(dialed)
		peer, _ = n.Dial(t.Context(), "browser", "gateway")
	}()
	nc, err := l.Accept()
	<-dialed
	if err != nil || peer == nil {
		t.Fatal(err)
	}
	return newTestSocket(t, nc, peer)
}

func newTestSocket(t *testing.T, nc, peer net.Conn) (*socket, net.Conn, *sync.WaitGroup) {
	var writers sync.WaitGroup
	s := newSocket(nc, wire.MaxQueuedBytes, &writers)
	t.Cleanup(func() {
		s.abort()
		_ = peer.Close()
		writers.Wait()
	})
	return s, peer, &writers
}

// nextFrame reads one frame of ours.
func nextFrame(r io.Reader) (op byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := uint64(head[1])
	var ext [8]byte
	switch n {
	case 126:
		_, err = io.ReadFull(r, ext[6:])
		n = binary.BigEndian.Uint64(ext[:])
	case 127:
		_, err = io.ReadFull(r, ext[:])
		n = binary.BigEndian.Uint64(ext[:])
	}
	if err != nil {
		return 0, nil, err
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(r, payload)
	return head[0], payload, err
}

// numbered returns frame i, with this many bytes of payload.
func numbered(i, size int) []byte {
	p := bytes.Repeat([]byte{byte(i)}, size)
	binary.BigEndian.PutUint32(p, uint32(i))
	return appendFrame(nil, p)
}

// readNumbered reads frames in order until the close frame. It returns their number and the
// close code.
func readNumbered(t *testing.T, r io.Reader) (frames int, code wire.CloseCode) {
	t.Helper()
	for {
		op, p, err := nextFrame(r)
		if err != nil {
			t.Fatalf("behind %d frames: %v", frames, err)
		}
		if op == closeBits {
			return frames, wire.CloseCode(binary.BigEndian.Uint16(p))
		}
		if op != textFrame || binary.BigEndian.Uint32(p) != uint32(frames) {
			t.Fatalf("frame %d is %x…", frames, p[:4])
		}
		if want := bytes.Repeat([]byte{byte(frames)}, len(p)-4); !bytes.Equal(p[4:], want) {
			t.Fatalf("frame %d is mixed with another", frames)
		}
		frames++
	}
}

func TestPartialWritesKeepFramesWholeAndInOrder(t *testing.T) {
	for _, size := range []int{4, 100, 125, 126, 3_000, 65_535, 65_536, 100_000} {
		s, peer, _ := tcpSocket(t)
		var sent int
		done := make(chan struct{})
		go func() {
			defer close(done)
			for sent = 0; sent < 40; sent++ {
				s.sendAll(numbered(sent, size), func() {})
			}
			s.closeWith(wire.CloseNormal)
		}()
		got, code := readNumbered(t, peer)
		<-done
		if got != 40 || code != wire.CloseNormal {
			t.Fatalf("size %d: got %d frames and %d", size, got, code)
		}
	}
}

func TestOverflowAt256KiBKeepsFramesWholeAndClosesLast(t *testing.T) {
	for _, size := range []int{100, 5_000, 16 << 10, 200 << 10} {
		s, peer, _ := tcpSocket(t)
		sent := 0
		for s.send(numbered(sent, size)) {
			if sent++; sent*size > 64<<20 {
				t.Fatal("never full")
			}
		}
		s.mu.Lock()
		waiting := len(s.queue) + s.writing
		s.mu.Unlock()
		if waiting > wire.MaxQueuedBytes+200 {
			t.Fatalf("%d bytes wait", waiting)
		}
		if s.send(numbered(sent, size)) {
			t.Fatal("sent behind the close")
		}
		got, code := readNumbered(t, peer)
		if got > sent || code != wire.CloseSlowConsumer {
			t.Fatalf("size %d: got %d frames of %d and %d", size, got, sent, code)
		}
	}
}

func TestOneBatchOverTheLimitIsCutAtAFrame(t *testing.T) {
	s, peer, _ := tcpSocket(t)
	var batch []byte
	const frames = 2_000
	for i := range frames {
		batch = append(batch, numbered(i, 16<<10)...)
	}
	if s.send(batch) {
		t.Fatal("32 MB were taken at once")
	}
	got, code := readNumbered(t, peer)
	if got == 0 || got == frames || code != wire.CloseSlowConsumer {
		t.Fatalf("got %d frames and %d", got, code)
	}
}

func TestLimitIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, peer, _ := memSocket(t)
		s.send(appendFrame(nil, make([]byte, memnet.Buffer))) // fills what is on its way, and 10 bytes wait
		synctest.Wait()
		s.mu.Lock()
		room := wire.MaxQueuedBytes - len(s.queue) - s.writing
		s.mu.Unlock()
		if !s.send(make([]byte, room)) || s.send([]byte{0}) || s.closeCode() != wire.CloseSlowConsumer {
			t.Fatalf("room for %d, closed with %d", room, s.closeCode())
		}
		_ = peer.Close()
	})
}

func TestControlFramesOfTheLibraryStandBetweenFrames(t *testing.T) {
	s, peer, _ := tcpSocket(t)
	lib := libraryConn{s.nc, &session{sock: s}}
	pong := []byte{0x8a, 3, 'a', 'b', 'c'}
	const frames = 200
	go func() {
		for i := range frames {
			s.sendAll(numbered(i, 20_000), func() {
				_, _ = lib.Write(pong)
			})
			_, _ = lib.Write(pong)
		}
		s.closeWith(wire.CloseNormal)
		_, _ = lib.Write(pong) // must not follow the close
	}()
	texts, pongs := 0, 0
	for {
		op, p, err := nextFrame(peer)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case op == textFrame && binary.BigEndian.Uint32(p) == uint32(texts):
			texts++
		case op == 0x8a && string(p) == "abc":
			pongs++
		case op == closeBits:
			if texts != frames || pongs != 2*frames {
				t.Fatalf("%d texts, %d pongs", texts, pongs)
			}
			_ = peer.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if n, err := peer.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("behind the close came %d bytes, %v", n, err)
			}
			return
		default:
			t.Fatalf("got %x %x…", op, p[:min(4, len(p))])
		}
	}
}

func TestCloseFrameArrivesThoughThePeerGoesOnSending(t *testing.T) {
	for range 20 {
		s, peer, _ := tcpSocket(t)
		stop := make(chan struct{})
		var sending sync.WaitGroup
		sending.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if _, err := peer.Write(make([]byte, 4096)); err != nil {
						return
					}
				}
			}
		})
		s.closeWith(wire.CloseReplaced)
		finished := make(chan struct{})
		go func() {
			defer close(finished)
			s.finish(false)
		}()
		if frames, code := readNumbered(t, peer); frames != 0 || code != wire.CloseReplaced {
			t.Fatalf("got %d", code)
		}
		close(stop)
		sending.Wait()
		_ = peer.Close()
		<-finished
	}
}

func TestFinishWaitsForThePeerFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, peer, _ := memSocket(t)
		s.closeWith(wire.CloseReplaced)
		began := time.Now()
		s.finish(false)
		if d := time.Since(began); d != closePatience {
			t.Fatalf("finished after %v", d)
		}
		if _, code := readNumbered(t, peer); code != wire.CloseReplaced {
			t.Fatalf("got %d", code)
		}
		if s.send([]byte("x")) {
			t.Fatal("sent behind the end")
		}
	})
}

func TestStuckPeerIsGivenUpInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, writers := memSocket(t)
		for range 6 {
			s.send(appendFrame(nil, make([]byte, memnet.Buffer/2)))
		}
		began := time.Now()
		writers.Wait()
		if d := time.Since(began); d < wire.SendTimeout+slowPatience || d > wire.SendTimeout+slowPatience+time.Second {
			t.Fatalf("given up after %v", d)
		}
		if s.closeCode() != wire.CloseSlowConsumer {
			t.Fatalf("closed with %d", s.closeCode())
		}
		// The reader does not wait forever either.
		if _, err := s.nc.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	})
}

func TestFirstCloseCounts(t *testing.T) {
	s, peer, _ := tcpSocket(t)
	s.closeWith(wire.CloseReplaced)
	s.closeWith(wire.CloseRoomDeleted)
	if _, code := readNumbered(t, peer); code != wire.CloseReplaced {
		t.Fatalf("got %d", code)
	}
	_ = peer.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if n, _ := peer.Read(make([]byte, 1)); n != 0 {
		t.Fatal("a second close frame")
	}
}

func TestFramesUpToAndEndOfFrameKeepBoundaries(t *testing.T) {
	var b []byte
	var ends []int
	for i, size := range []int{4, 125, 126, 65_535, 65_536, 4} {
		b = append(b, numbered(i, size)...)
		ends = append(ends, len(b))
	}
	start := 0
	for i, end := range ends {
		if got := endOfFrame(b, start); got != end {
			t.Errorf("frame %d ends at %d, want %d", i, got, end)
		}
		if got := endOfFrame(b, end-1); got != end {
			t.Errorf("frame %d ends at %d, want %d", i, got, end)
		}
		if got := framesUpTo(b, end); got != end {
			t.Errorf("up to %d: %d", end, got)
		}
		if got := framesUpTo(b, end-1); i > 0 && got != start {
			t.Errorf("up to %d: %d, want %d", end-1, got, start)
		}
		start = end
	}
}

// A JOINED of a thousand members is larger than the queue's limit. A ping that is sent
// meanwhile must not exceed it.
func TestLargeFirstFrameLeavesRoomForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, peer, writers := memSocket(t)
		sent := make(chan bool, 1)
		go func() { sent <- s.sendAll(numbered(0, 400<<10), func() {}) }()
		synctest.Wait()
		if !s.send(pingFrame) {
			t.Fatalf("closed with %d", s.closeCode())
		}
		if op, p, err := nextFrame(peer); op != textFrame || len(p) != 400<<10 || err != nil {
			t.Fatalf("got %x of %d bytes, %v", op, len(p), err)
		}
		if op, _, err := nextFrame(peer); op != 0x89 || err != nil || !<-sent {
			t.Fatalf("got %x, %v", op, err)
		}
		writers.Wait()
	})
}

func TestRenewalThatFindsNoSeatClosesUnlessTheMemberIsLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(&Gateway{metrics: newMetrics(nil)})
		for cause, want := range map[roomv1.LostSession_Cause]wire.CloseCode{
			roomv1.LostSession_CAUSE_REPLACED:    wire.CloseReplaced,
			roomv1.LostSession_CAUSE_ROOM_GONE:   wire.CloseRoomDeleted,
			roomv1.LostSession_CAUSE_REMOVED:     wire.CloseRemoved,
			roomv1.LostSession_CAUSE_LEASE_ENDED: wire.CloseLeaseLost,
		} {
			for _, leaving := range []bool{false, true} {
				s := &session{id: "s"}
				s.sock, _, _ = memSocket(t)
				s.givingUpSeat.Store(leaving)
				k.renewed([]*session{s}, &roomv1.RenewLeasesResponse{Lost: []*roomv1.LostSession{{SessionId: "s", Cause: cause}}}, 0)
				if got := s.sock.closeCode(); leaving && got != 0 || !leaving && got != want {
					t.Errorf("%v, leaving %v: closed with %d", cause, leaving, got)
				}
			}
		}
	})
}

func TestThePeerThatStopsReadingIsHeldToItsLimitAndNotToTheKernels(t *testing.T) {
	g := &Gateway{}
	sockets := make(chan *socket, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s := &session{g: g, in: incoming{meter: newMeter(0, 0)}}
		if _, _, err := (&hijacker{w, s}).Hijack(); err != nil {
			t.Error(err)
		}
		sockets <- s.sock
	}))
	defer srv.Close()
	peer, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	_ = peer.(*net.TCPConn).SetReadBuffer(8 << 10)
	if _, err := io.WriteString(peer, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	s := <-sockets
	defer g.sockets.Wait()
	defer s.abort()
	frame, sent := appendFrame(nil, make([]byte, 1000)), 0
	for s.send(frame) {
		sent += len(frame)
	}
	if most := wire.MaxQueuedBytes + 4*kernelBuffer; sent > most {
		t.Errorf("%d bytes were sent to a peer that reads nothing, want %d at most", sent, most)
	}
	if code := s.closeCode(); code != wire.CloseSlowConsumer {
		t.Errorf("closed with %d", code)
	}
}

func TestPeerThatBrokeOffBehindItsHandshakeIsGone(t *testing.T) {
	for name, ahead := range map[string][]byte{"nothing": nil, "a JOIN": {textFrame, 0x80, 0, 0, 0, 0}} {
		sock, peer, _ := tcpSocket(t)
		s := &session{sock: sock}
		s.in.buffer = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(ahead), sock.nc), readBuffer) // as the library does
		s.in.unread = len(ahead) > 0
		if len(ahead) > 0 && s.gone() {
			t.Errorf("%s: gone, though it is unread", name)
		}
		_, _ = io.ReadFull(s.in.buffer, make([]byte, len(ahead)))
		s.in.unread = false
		_ = peer.Close()
		_ = sock.nc.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := sock.nc.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatalf("%s: the end has not come: %v", name, err)
		}
		if !s.gone() {
			t.Errorf("%s: not gone", name)
		}
	}
}

// While a member gets its replay, nothing else is read from it.
func TestWhoTakesAReplaySlowlyIsHeardOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, peer, _ := memSocket(t)
		var frames []byte
		for i := range 300 {
			frames = append(frames, numbered(i, 1000)...)
		}
		var reader sync.WaitGroup
		reader.Go(func() {
			for p := make([]byte, 1500); ; time.Sleep(time.Second) {
				if _, err := peer.Read(p); err != nil {
					return
				}
			}
		})
		heard := time.Now()
		if !s.sendAll(frames, func() {
			if silent := time.Since(heard); silent > wire.PeerSilence/2 {
				t.Errorf("no sign of life for %v", silent)
			}
			heard = time.Now()
		}) {
			t.Errorf("closed with %v", s.closeCode())
		}
		_ = peer.Close()
		reader.Wait()
	})
}
