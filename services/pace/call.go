package pace

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// callTimeout bounds one call, and one join.
const callTimeout = 30 * time.Second

// upgradeKey is the same for every connection: it is not tested here whether the server
// hashes it correctly.
const upgradeKey = "AAAAAAAAAAAAAAAAAAAAAA=="

// caller makes HTTP calls on one connection that stays open. It writes and reads HTTP by
// hand: net/http would take as much CPU as the server does.
type caller struct {
	address string // host:port
	host    string // for the header Host, as the target has it
	conn    net.Conn
	in      *bufio.Reader
	out     []byte
}

func newCaller(target string) (*caller, error) {
	u, err := url.Parse(target)
	if err != nil || u.Host == "" || u.Scheme != "http" {
		return nil, fmt.Errorf("target %q is not http://HOST:PORT", target)
	}
	c := &caller{address: u.Host, host: u.Host}
	if u.Port() == "" {
		c.address += ":80"
	}
	return c, nil
}

func (c *caller) close() {
	if c.conn != nil {
		c.conn.Close()
	}
}

// call makes a call and returns the body of the answer. A status other than want is an error.
func (c *caller) call(ctx context.Context, method, path, identity, body string, want int) ([]byte, error) {
	if c.conn == nil {
		conn, err := dial(ctx, c.address)
		if err != nil {
			return nil, err
		}
		c.conn, c.in = conn, bufio.NewReaderSize(conn, 4<<10)
	}
	_ = c.conn.SetDeadline(time.Now().Add(callTimeout))
	out := append(append(append(append(c.out[:0], method...), ' '), path...), " HTTP/1.1\r\nHost: "...)
	out = append(out, c.host...)
	if identity != "" {
		out = append(append(out, "\r\nAuthorization: Bearer "...), identity...)
	}
	if body != "" {
		out = append(out, "\r\nContent-Type: application/json"...)
	}
	out = append(strconv.AppendInt(append(out, "\r\nContent-Length: "...), int64(len(body)), 10), "\r\n\r\n"...)
	out = append(out, body...)
	c.out = out
	if _, err := c.conn.Write(c.out); err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	status, answer, err := readAnswer(c.in)
	if err == nil && status != want {
		err = fmt.Errorf("%d %s", status, answer)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return answer, nil
}

// readAnswer reads one HTTP/1.1 response. The response to an upgrade has no body.
func readAnswer(in *bufio.Reader) (status int, body []byte, err error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return 0, nil, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return 0, nil, fmt.Errorf("not HTTP: %q", line)
	}
	status = int(number(line[9:]))
	size, chunked := 0, false
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return 0, nil, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch value = bytes.TrimSpace(value); {
		case bytes.EqualFold(name, []byte("Content-Length")):
			size = int(number(value))
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = true
		}
	}
	if chunked {
		body, err = io.ReadAll(httputil.NewChunkedReader(in))
		return status, body, err
	}
	body = make([]byte, size)
	_, err = io.ReadFull(in, body)
	return status, body, err
}

// field finds a string in the JSON of an answer. It does not unescape: identities, permits
// and paths need none.
func field(answer []byte, name string) (string, error) {
	_, rest, ok := strings.Cut(string(answer), `"`+name+`":"`)
	value, _, closed := strings.Cut(rest, `"`)
	if !ok || !closed {
		return "", fmt.Errorf("no %s in %q", name, answer)
	}
	return value, nil
}

// dial connects to a server. Small writes are sent at once (TCP_NODELAY), Go's default.
func dial(ctx context.Context, address string) (net.Conn, error) {
	return (&net.Dialer{Timeout: callTimeout, KeepAlive: -1}).DialContext(ctx, "tcp", address)
}

// upgrade opens a WebSocket and reads the first frame, which must be JOINED. already holds
// the bytes that came after it. They are valid until in is used again.
func upgrade(conn net.Conn, host, path string, in *bufio.Reader) (seq int64, already []byte, err error) {
	_ = conn.SetDeadline(time.Now().Add(callTimeout))
	request := "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + upgradeKey + "\r\n\r\n"
	if _, err := io.WriteString(conn, request); err != nil {
		return 0, nil, err
	}
	in.Reset(conn)
	status, body, err := readAnswer(in)
	if err != nil {
		return 0, nil, err
	}
	if status != 101 {
		return 0, nil, fmt.Errorf("%d %s", status, body)
	}
	opcode, first, err := readFrame(in)
	for err == nil && opcode == opPing { // a ping may overtake JOINED
		if _, err = conn.Write(clientFrame(opPong, first)); err == nil {
			opcode, first, err = readFrame(in)
		}
	}
	if err != nil {
		return 0, nil, err
	}
	if !bytes.HasPrefix(first, []byte(`{"type":"JOINED"`)) {
		return 0, nil, fmt.Errorf("instead of JOINED came %q", first)
	}
	already, _ = in.Peek(in.Buffered())
	return seqOf(first), already, conn.SetDeadline(time.Time{})
}

// readFrame reads one frame.
func readFrame(in *bufio.Reader) (opcode byte, payload []byte, err error) {
	for want := 2; ; {
		b, err := in.Peek(want)
		if err != nil {
			return 0, nil, err
		}
		head, size, err := header(b)
		if err != nil {
			return 0, nil, err
		}
		if head == 0 { // the header has 4 or 10 bytes
			want += 2
			continue
		}
		opcode, payload = b[0]&0xf, make([]byte, size)
		_, _ = in.Discard(head)
		_, err = io.ReadFull(in, payload)
		return opcode, payload, err
	}
}
