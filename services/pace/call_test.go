package pace

import (
	"bufio"
	"strings"
	"testing"
)

func TestAnswersAreReadAsHTTPWritesThem(t *testing.T) {
	for name, row := range map[string]struct {
		text   string
		status int
		body   string
	}{
		"with a length": {"HTTP/1.1 201 Created\r\ncontent-length: 2\r\nX: y\r\n\r\n{}", 201, "{}"},
		"chunked":       {"HTTP/1.1 409 Conflict\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{\"\r\n2\r\n\"}\r\n0\r\n\r\n", 409, `{""}`},
		"upgraded":      {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", 101, ""},
	} {
		next := "HTTP/1.1 204 No Content\r\n\r\n"
		in := bufio.NewReader(strings.NewReader(row.text + next))
		status, body, err := readAnswer(in)
		if err != nil || status != row.status || string(body) != row.body {
			t.Errorf("%s: %d %q, %v", name, status, body, err)
		}
		if status, _, err := readAnswer(in); name != "chunked" && (err != nil || status != 204) {
			t.Errorf("behind %s: %d, %v", name, status, err)
		}
	}
	for _, text := range []string{"", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}", "SSH-2.0-OpenSSH\r\n\r\n"} {
		if _, _, err := readAnswer(bufio.NewReader(strings.NewReader(text))); err == nil {
			t.Errorf("%q is no answer", text)
		}
	}
}

func TestProcessesAreNamedOnTheCommandLine(t *testing.T) {
	p, err := ParseProcess("gateway1=42@127.0.0.1:9181")
	if err != nil || p != (Process{Name: "gateway1", PID: 42, Admin: "http://127.0.0.1:9181"}) || p.kind() != gateways {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := ParseProcess("redis=7"); err != nil || p != (Process{Name: "redis", PID: 7}) || p.kind() != redises {
		t.Errorf("%+v, %v", p, err)
	}
	for _, text := range []string{"", "gateway", "=1", "gateway=x", "gateway=0"} {
		if _, err := ParseProcess(text); err == nil {
			t.Errorf("%q names a process", text)
		}
	}
}
