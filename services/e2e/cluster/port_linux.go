package cluster

import (
	"fmt"
	"os"
	"syscall"
)

// port is a port of 127.0.0.1 that the system chose and gives to nobody else while it is
// held. Its socket is bound but does not listen. So a process that sets SO_REUSEADDR, as all
// servers do, can listen there, also after a restart, and the kernel never picks the port
// for an outgoing connection.
type port struct {
	addr string
	fd   int
}

func holdPort() (*port, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	p := &port{fd: fd}
	if err := p.bind(); err != nil {
		p.release()
		return nil, err
	}
	return p, nil
}

func (p *port) bind() error {
	if err := syscall.SetsockoptInt(p.fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := syscall.Bind(p.fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	bound, err := syscall.Getsockname(p.fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	inet, ok := bound.(*syscall.SockaddrInet4)
	if !ok {
		return fmt.Errorf("bound to %T", bound)
	}
	p.addr = fmt.Sprintf("127.0.0.1:%d", inet.Port)
	return nil
}

func (p *port) release() { _ = syscall.Close(p.fd) }
