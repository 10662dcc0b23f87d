//go:build !linux

package pace

import (
	"net"
	"sync"
)

const readBytes = 64 << 10

// taker receives the bytes of a socket. Its methods are called with the poller's lock held.
type taker interface {
	attach(s *socket)    // called first
	take(b []byte) error // an error ends the socket
	broke(err error)     // called once, when no more will come
}

// poller reads each socket on a goroutine of its own, which costs more than on Linux.
type poller struct {
	mu    sync.Mutex // guards the state of the takers
	ended sync.WaitGroup

	all   sync.Mutex // guards socks
	socks []*socket
}

// socket is a TCP connection.
type socket struct {
	conn net.Conn
	mu   sync.Mutex // one write at a time
}

func newPoller() (*poller, error) { return &poller{}, nil }

// add reads conn for t from now on. t gets the bytes in already first. add takes over conn.
func (p *poller) add(conn net.Conn, t taker, already []byte) error {
	s := &socket{conn: conn}
	var err error
	p.locked(func() {
		t.attach(s)
		if len(already) > 0 {
			err = t.take(already)
		}
	})
	if err != nil {
		return err
	}
	p.all.Lock()
	p.socks = append(p.socks, s)
	p.all.Unlock()
	p.ended.Go(func() { p.serve(s, t) })
	return nil
}

func (p *poller) serve(s *socket, t taker) {
	buf := make([]byte, readBytes)
	for {
		n, err := s.conn.Read(buf)
		p.locked(func() {
			if n > 0 {
				if wrong := t.take(buf[:n]); wrong != nil {
					err = wrong
				}
			}
			if err != nil {
				t.broke(err)
			}
		})
		if err != nil {
			return
		}
	}
}

// locked runs do while nothing is read.
func (p *poller) locked(do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do()
}

// close ends the reading, and returns when nothing is read any more.
func (p *poller) close() {
	p.all.Lock()
	for _, s := range p.socks {
		s.close()
	}
	p.all.Unlock()
	p.ended.Wait()
}

// write writes all of b.
func (s *socket) write(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.conn.Write(b)
	return err
}

func (s *socket) close() { s.conn.Close() }
