package e2e

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
)

// raw is a peer that speaks HTTP and WebSocket by hand. It tells the gateway an address of its
// choice, as a proxy would.
type raw struct {
	net.Conn
	br *bufio.Reader
}

var addresses atomic.Uint32

// address returns an address that nobody has used yet.
func address() string {
	n := addresses.Add(1)
	return fmt.Sprintf("10.%d.%d.%d", n>>16&255, n>>8&255, n&255)
}

func dial(ctx context.Context, to *cluster.Process) (*raw, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", to.Addr())
	if err != nil {
		return nil, err
	}
	return &raw{conn, bufio.NewReaderSize(conn, 512)}, nil
}

// handshake asks for a WebSocket and returns the status, 0 if there is no answer.
func (p *raw) handshake(from, query string) (status int) {
	_, err := io.WriteString(p, "GET /chat"+query+" HTTP/1.1\r\nHost: "+p.RemoteAddr().String()+"\r\nX-Forwarded-For: "+from+
		"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	if err != nil {
		return 0
	}
	_ = p.SetReadDeadline(time.Now().Add(lateness))
	resp, err := http.ReadResponse(p.br, nil)
	if err != nil {
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// closeCode reads up to the close frame and returns its code; 1006 if there is none.
func (p *raw) closeCode(by time.Time) wire.CloseCode {
	_ = p.SetReadDeadline(by)
	for {
		var head [4]byte
		if _, err := io.ReadFull(p.br, head[:2]); err != nil {
			return 1006
		}
		n := int(head[1])
		if n == 126 {
			_, _ = io.ReadFull(p.br, head[2:])
			n = int(binary.BigEndian.Uint16(head[2:]))
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(p.br, payload); err != nil {
			return 1006
		}
		if head[0] == 0x88 && n >= 2 {
			return wire.CloseCode(binary.BigEndian.Uint16(payload))
		}
	}
}

// ended reads up to the end of the connection, and returns what came.
func (p *raw) ended(t *testing.T, by time.Time) []byte {
	t.Helper()
	_ = p.SetReadDeadline(by)
	answer, err := io.ReadAll(p.br)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a connection is still open")
	}
	return answer
}

// each calls do for 0 to n-1 from several goroutines, rate times a second in total.
func each(n, rate int, do func(i int)) {
	var next atomic.Int64
	var working sync.WaitGroup
	began := time.Now()
	for range 16 {
		working.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / time.Duration(rate))))
				do(i)
			}
		})
	}
	working.Wait()
}

// many connects n peers, rate a second, and calls first for each. An error of first fails the
// test.
func many(t *testing.T, n, rate int, to *cluster.Process, first func(p *raw) error) (peers []*raw) {
	var mu sync.Mutex
	each(n, rate, func(int) {
		p, err := dial(t.Context(), to)
		if err == nil {
			err = first(p)
		}
		if err != nil {
			t.Errorf("a peer of %d: %v", n, err)
		}
		if p != nil {
			mu.Lock()
			peers = append(peers, p)
			mu.Unlock()
		}
	})
	return peers
}

// joining is a first step for many: it opens a WebSocket from an address, with a query.
func joining(p *raw, from, query string) error {
	if status := p.handshake(from, query); status != http.StatusSwitchingProtocols {
		return fmt.Errorf("the handshake got %d", status)
	}
	return nil
}

// drip sends text, and then one byte of rest twice a second until the connection is gone.
func (p *raw) drip(text, rest string) {
	_, err := io.WriteString(p, text)
	for i := 0; err == nil; i++ {
		time.Sleep(500 * time.Millisecond)
		_, err = p.Write([]byte{rest[i%len(rest)]})
	}
}

func hangUp(peers []*raw) {
	for _, p := range peers {
		_ = p.Close()
	}
}

// maskedFrame returns a small frame of a client, masked with zeros.
func maskedFrame(b0 byte, payload []byte) []byte {
	return append([]byte{b0, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
}
