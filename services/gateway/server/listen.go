package server

import (
	"context"
	"net"
	"runtime"

	"github.com/anteroom-chat/anteroom/pkg/rawtcp"
)

// Listen listens on the address of the public port.
func Listen(address string) (net.Listener, error) {
	// No TCP keep-alive: requests have deadlines, idle connections end after 2 minutes, and
	// WebSockets are pinged. The kernel's probes would only cost each connection four system
	// calls.
	listener, err := (&net.ListenConfig{KeepAlive: -1}).Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, err
	}
	return lastInLine{listener}, nil
}

// lastInLine accepts a connection only after everything else that can run has had its turn.
// Otherwise a storm of connections would be accepted and started in one go, before messages to
// those that are connected already are sent on.
type lastInLine struct{ net.Listener }

func (l lastInLine) Accept() (net.Conn, error) {
	runtime.Gosched()
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return rawtcp.Wrap(c), nil
}
