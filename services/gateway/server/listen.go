package server

import (
	"context"
	"net"
	"runtime"

	"github.com/anteroom-chat/anteroom/pkg/rawtcp"
)

// Listen takes the address of the public port.
func Listen(address string) (net.Listener, error) {
	// Requests have deadlines, idle connections 2 minutes, and WebSockets PINGs: probes of
	// the kernel's would only cost each connection four system calls.
	listener, err := (&net.ListenConfig{KeepAlive: -1}).Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, err
	}
	return lastInLine{listener}, nil
}

// lastInLine accepts a connection once whatever else can run has had its turn. A storm
// of them would be accepted in one go else, and each begin, before a message to those who
// are there already is sent on.
type lastInLine struct{ net.Listener }

func (l lastInLine) Accept() (net.Conn, error) {
	runtime.Gosched()
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return rawtcp.Wrap(c), nil
}
