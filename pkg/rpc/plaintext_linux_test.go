package rpc

import (
	"context"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// accepting reports each connection that a listener accepts.
type accepting struct {
	net.Listener
	accepted chan net.Conn
}

func (a accepting) Accept() (net.Conn, error) {
	c, err := a.Listener.Accept()
	if err == nil {
		a.accepted <- c
	}
	return c, err
}

// A host that has vanished acknowledges no packet. The kernel gives up the connection to it
// after the time within which a ping must be answered.
func TestBothEndsGiveUpAPeerThatHasVanished(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ends := make(chan net.Conn, 2)
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	server := NewServer(ServerConfig{StopTimeout: time.Second})
	server.SetServing(true)
	go func() { stopped <- server.Run(ctx, accepting{inner, ends}) }()
	defer func() {
		stop()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	}()
	conn, err := Dial(inner.Addr().String(), ClientConfig{Dialer: func(ctx context.Context, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err == nil {
			ends <- c
		}
		return c, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	for range cap(ends) {
		raw, err := (<-ends).(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		failed := raw.Control(func(fd uintptr) {
			ms, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
			if got := time.Duration(ms) * time.Millisecond; got != pingTimeout || err != nil {
				t.Errorf("TCP_USER_TIMEOUT is %v, error %v, want %v", got, err, pingTimeout)
			}
		})
		if failed != nil {
			t.Error(failed)
		}
	}
}
