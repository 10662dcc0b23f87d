package httpapi

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/memnet"
	"github.com/anteroom-chat/anteroom/services/gateway/identity"
)

// slow lets a test be a client down to its bytes, in virtual time.
func slow(t *testing.T, test func(t *testing.T, conn net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		signer, err := identity.NewSigner(bytes.Repeat([]byte("k"), 32), 0)
		if err != nil {
			t.Fatal(err)
		}
		quiet := slog.New(slog.DiscardHandler)
		network := memnet.New()
		listener, err := network.Listen("gateway")
		if err != nil {
			t.Fatal(err)
		}
		server := NewServer(New(Config{Identities: signer, Logger: quiet}), quiet)
		served := make(chan error, 1)
		go func() { served <- server.Serve(listener) }()
		conn, err := network.Dial(t.Context(), "client", "gateway")
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = conn.Close()
			_ = server.Close()
			if err := <-served; !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
			time.Sleep(time.Second) // net/http keeps connections that it ended open for a while
		}()
		test(t, conn)
	})
}

// drip writes text, and then a byte of rest now and then for as long as it is taken;
// never just when a limit is over, since an unread byte resets the connection.
func drip(conn net.Conn, text, rest string) {
	_, err := io.WriteString(conn, text)
	for i := 0; err == nil; i++ {
		time.Sleep(900 * time.Millisecond)
		_, err = conn.Write([]byte{rest[i%len(rest)]})
	}
}

func TestWhoSendsSlowlyIsCutOff(t *testing.T) {
	const head = " HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
	for _, row := range []struct {
		name, text, rest string
		within           time.Duration
		status           int // 0: none, or 400
	}{
		{"nothing", "", "", headerTimeout, 0},
		{"request line", "GET /v1/rooms?", "x", headerTimeout, 0},
		{"headers", "GET /v1/rooms" + head, "X-A: b\r\n", headerTimeout, 0},
		{"body", "POST /v1/identities" + head + "Content-Length: 100\r\n\r\n{", " ", RequestTimeout, 400},
		{"chunked body", "POST /v1/identities" + head + "Transfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n", RequestTimeout, 400},
		{"body that nobody reads", "GET /healthz" + head + "Content-Length: 100\r\n\r\n", "x", readTimeout, 200},
		{"body to nowhere", "POST /nowhere" + head + "Content-Length: 100\r\n\r\n", "x", readTimeout, 404},
	} {
		t.Run(row.name, func(t *testing.T) {
			slow(t, func(t *testing.T, conn net.Conn) {
				began := time.Now()
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					if row.rest != "" {
						drip(conn, row.text, row.rest)
					}
				}()
				_ = conn.SetReadDeadline(began.Add(time.Minute))
				answer, _ := io.ReadAll(conn)
				if took := time.Since(began); took > row.within+time.Second {
					t.Errorf("cut off after %v", took)
				}
				_ = conn.Close()
				<-ended
				if row.status == 0 {
					if len(answer) > 0 && !bytes.HasPrefix(answer, []byte("HTTP/1.1 400 ")) {
						t.Errorf("answered %q", answer)
					}
					return
				}
				resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answer)), nil)
				if err != nil || resp.StatusCode != row.status {
					t.Fatalf("%v, answered %q", err, answer)
				}
				_ = resp.Body.Close()
			})
		})
	}
}

func TestWhoDoesNotReadIsCutOff(t *testing.T) {
	slow(t, func(t *testing.T, conn net.Conn) {
		began := time.Now()
		for time.Since(began) < time.Hour {
			_ = conn.SetWriteDeadline(began.Add(time.Hour))
			if _, err := io.WriteString(conn, "GET /v1/openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
				break
			}
		}
		if took := time.Since(began); took > writeTimeout+time.Second {
			t.Errorf("cut off after %v", took)
		}
	})
}

func TestConnectionsWithoutRequestsEnd(t *testing.T) {
	slow(t, func(t *testing.T, conn net.Conn) {
		_, _ = io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
		_ = conn.SetReadDeadline(time.Now().Add(time.Hour))
		began := time.Now()
		answer, err := io.ReadAll(conn)
		if took := time.Since(began); err != nil || took > idleTimeout+time.Second || !strings.HasPrefix(string(answer), "HTTP/1.1 200") {
			t.Errorf("%v, %q after %v", err, answer, took)
		}
	})
}

func TestLargeHeadersAreRefused(t *testing.T) {
	slow(t, func(t *testing.T, conn net.Conn) {
		_, _ = io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: a\r\nX-A: "+strings.Repeat("x", 24<<10)+"\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Fatalf("%v, %v", resp, err)
		}
		_ = resp.Body.Close()
	})
}
