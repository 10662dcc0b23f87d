//go:build !linux

package cluster

import "net"

// port is a port of 127.0.0.1 that was free a moment ago.
type port struct{ addr string }

func holdPort() (*port, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	return &port{addr: listener.Addr().String()}, nil
}

func (p *port) release() {}
