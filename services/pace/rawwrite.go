package pace

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// rawSockets is the number of sockets that the raw write goes to in turn.
const rawSockets = 1000

// deliveredBytes returns a MESSAGE as a gateway writes it to a member.
func deliveredBytes() []byte {
	from := wire.Member{UserID: "u_WLFLQWJUTWMUGOWLELG5J7LNUY"}.Encode()
	body := wire.Quote(strings.Repeat("x", textBytes))
	payload := wire.MessageFrame(123456, time.Unix(1e9, 0), wire.MessageTail(from, "", body))
	return append([]byte{0x81, 126, byte(len(payload) >> 8), byte(len(payload))}, payload...)
}

// RawWrite returns the CPU time that one net.Conn.Write of a delivered MESSAGE takes on this
// machine. No gateway can deliver for less unless it puts several messages into one write.
// RawWrite writes for about the given time to 1,000 loopback sockets in turn, which are read
// on another thread. It returns 0 if the CPU time cannot be measured.
func RawWrite(ctx context.Context, about time.Duration) (time.Duration, error) {
	drain, err := newPoller()
	if err != nil {
		return 0, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		drain.close()
		return 0, err
	}
	defer listener.Close()
	var conns []net.Conn
	var sinks []*sink
	defer func() {
		for _, c := range conns {
			c.Close()
		}
		drain.close() // before the descriptors can be reused
		for _, s := range sinks {
			s.sock.close()
		}
	}()
	for range rawSockets {
		conn, err := dial(ctx, listener.Addr().String())
		if err != nil {
			return 0, err
		}
		conns = append(conns, conn)
		other, err := listener.Accept()
		if err != nil {
			return 0, err
		}
		s := new(sink)
		if err := drain.add(other, s, nil); err != nil {
			return 0, err
		}
		sinks = append(sinks, s)
	}
	return writeInTurn(conns, about)
}

// writeInTurn measures on one thread, after it has written to every socket once.
func writeInTurn(conns []net.Conn, about time.Duration) (time.Duration, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	frame := deliveredBytes()
	var before time.Duration
	writes := 0
	for began := now(); writes == 0 || now()-began < about; {
		for _, c := range conns {
			if _, err := c.Write(frame); err != nil {
				return 0, err
			}
		}
		if before == 0 { // the first round warmed up
			var err error
			if before, err = threadCPU(); errors.Is(err, errors.ErrUnsupported) {
				return 0, nil
			} else if err != nil {
				return 0, err
			}
			continue
		}
		writes += len(conns)
	}
	after, err := threadCPU()
	if err != nil {
		return 0, err
	}
	return (after - before) / time.Duration(writes), nil
}

// sink drops the bytes of a socket.
type sink struct{ sock *socket }

func (s *sink) attach(sock *socket) { s.sock = sock }

func (s *sink) take([]byte) error { return nil }

func (s *sink) broke(error) {}
