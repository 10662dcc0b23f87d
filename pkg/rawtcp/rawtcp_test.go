package rawtcp_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/rawtcp"
)

const patience = 10 * time.Second // for things that the kernel does at once

// pair returns both ends of a connection.
func pair(t *testing.T) (*rawtcp.Conn, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	there, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	here, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close(); there.Close() })
	return rawtcp.Wrap(here).(*rawtcp.Conn), there.(*net.TCPConn)
}

// outcome is the result of a read or write. Of the error, it has what callers distinguish
// errors by.
type outcome struct {
	n                    int
	eof, timeout, closed bool
	errno                syscall.Errno
	op                   string // of the *net.OpError
}

func outcomeOf(n int, err error) outcome {
	o := outcome{n: n, eof: errors.Is(err, io.EOF), timeout: errors.Is(err, os.ErrDeadlineExceeded), closed: errors.Is(err, net.ErrClosed)}
	_ = errors.As(err, &o.errno)
	if op, ok := errors.AsType[*net.OpError](err); ok {
		o.op = op.Op + " " + op.Net
	}
	return o
}

// Whatever happens to a connection, its errors are those of the *net.TCPConn within.
func TestEndsAsANetConn(t *testing.T) {
	for name, end := range map[string]func(*rawtcp.Conn, *net.TCPConn){
		"end": func(_ *rawtcp.Conn, peer *net.TCPConn) { _ = peer.CloseWrite() },
		"reset": func(_ *rawtcp.Conn, peer *net.TCPConn) {
			_ = peer.SetLinger(0)
			_ = peer.Close()
		},
		"closed here": func(c *rawtcp.Conn, _ *net.TCPConn) { _ = c.Close() },
		"deadline":    func(c *rawtcp.Conn, _ *net.TCPConn) { _ = c.SetDeadline(time.Unix(1, 0)) },
		"closed for writing": func(c *rawtcp.Conn, _ *net.TCPConn) {
			_ = c.CloseWrite()
			_ = c.SetReadDeadline(time.Unix(1, 0))
		},
		"deadline, while it waits": func(c *rawtcp.Conn, _ *net.TCPConn) {
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		},
		"closed, while it waits": func(c *rawtcp.Conn, _ *net.TCPConn) {
			time.AfterFunc(20*time.Millisecond, func() { _ = c.Close() })
		},
	} {
		t.Run(name, func(t *testing.T) {
			of := func(with func(*rawtcp.Conn) net.Conn) (read, write outcome) {
				c, peer := pair(t)
				end(c, peer)
				read = outcomeOf(with(c).Read(make([]byte, 8)))
				return read, outcomeOf(with(c).Write([]byte("text")))
			}
			read, write := of(func(c *rawtcp.Conn) net.Conn { return c })
			wantRead, wantWrite := of(func(c *rawtcp.Conn) net.Conn { return c.TCPConn })
			if read != wantRead || write != wantWrite {
				t.Errorf("read, write: %+v, %+v; package net: %+v, %+v", read, write, wantRead, wantWrite)
			}
		})
	}
}

// Data that the kernel does not take at once waits until it does.
func TestWritesAll(t *testing.T) {
	c, peer := pair(t)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	wrote := make(chan error, 1)
	go func() {
		n, err := c.Write(sent)
		if err == nil && n != len(sent) {
			err = io.ErrShortWrite
		}
		wrote <- errors.Join(err, c.CloseWrite())
	}()
	got, err := io.ReadAll(peer)
	if err := errors.Join(err, <-wrote); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes of %d came, error %v", len(got), len(sent), err)
	}
}

// A write that times out returns how much was taken.
func TestTellsHowMuchWasTaken(t *testing.T) {
	c, peer := pair(t)
	_ = c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := c.Write(make([]byte, 64<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("error %v", err)
	}
	_ = c.CloseWrite()
	if got, err := io.Copy(io.Discard, peer); err != nil || got != int64(n) {
		t.Errorf("%d bytes came, error %v; told %d", got, err, n)
	}
}

func TestReads(t *testing.T) {
	c, peer := pair(t)
	if n, err := c.Read(nil); n != 0 || err != nil {
		t.Errorf("a read of nothing: %d, %v", n, err)
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	go func() { // each text once the previous one has been read
		asked := make([]byte, 1)
		for _, text := range []string{"one", "two", "three"} {
			if _, err := peer.Read(asked); err != nil {
				break
			}
			_, _ = peer.Write([]byte(text))
		}
		_ = peer.CloseWrite()
	}()
	got := make([]byte, 8)
	for _, want := range []string{"one", "two", "three"} {
		_, _ = c.Write([]byte("?"))
		if n, err := c.Read(got); err != nil || string(got[:n]) != want {
			t.Errorf("%q, error %v, want %q", got[:n], err, want)
		}
	}
	if n, err := c.Read(got); n != 0 || err != io.EOF { //nolint:errorlint // as io.Reader has it
		t.Errorf("at the end: %d, %v", n, err)
	}
}

// Concurrent reads and writes do not mix.
func TestManyAtATime(t *testing.T) {
	done := make(chan error)
	const conns, rounds = 20, 200
	for i := range conns {
		c, peer := pair(t)
		text := bytes.Repeat([]byte{byte(i)}, 1000)
		go func() { // an echo
			_, err := io.CopyN(struct{ io.Writer }{c}, struct{ io.Reader }{c}, rounds*int64(len(text)))
			done <- err
		}()
		go func() {
			got := make([]byte, len(text))
			for range rounds {
				if _, err := peer.Write(text); err != nil {
					done <- err
					return
				}
				if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, text) {
					done <- errors.Join(err, errors.New("other bytes"))
					return
				}
			}
			done <- nil
		}()
	}
	for range 2 * conns {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestLeavesOthersAsTheyAre(t *testing.T) {
	a, _ := net.Pipe()
	if rawtcp.Wrap(a) != a {
		t.Error("a pipe was wrapped")
	}
	c, _ := pair(t)
	if rawtcp.Wrap(c) != c {
		t.Error("wrapped twice")
	}
}
