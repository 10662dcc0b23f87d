package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// command returns a command in the format of the append-only file.
func command(words ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(w), w)
	}
	return b.String()
}

// Otherwise a Redis that is killed while it writes the changes of a script would carry out half
// of them at the start after the next.
func TestHalfATransactionIsCutOffBeforeRedisStarts(t *testing.T) {
	t.Parallel()
	whole := command("SET", "a", "1")
	script := command("MULTI") + command("SET", "a", "2") + command("SET", "b", "2") + command("EXEC")
	frame := strings.Repeat(`{"type":"MESSAGE","body":"EXEC"}`, 20)
	message := command("MULTI") + command("HINCRBY", "room", "seq", "1") + command("XADD", "log", "1-1", "f", frame) +
		command("HSET", "ids", frame, "1") + command("EXEC")
	start := func(content string) (left string) {
		dir := t.TempDir()
		files := filepath.Join(dir, "appendonlydir")
		must(t, os.Mkdir(files, 0o755))
		must(t, os.WriteFile(filepath.Join(files, "appendonly.aof.manifest"), []byte("file appendonly.aof.1.incr.aof seq 1 type i\n"), 0o600))
		file := filepath.Join(files, "appendonly.aof.1.incr.aof")
		must(t, os.WriteFile(file, []byte(content), 0o600))
		output, err := exec.CommandContext(t.Context(), "../../deploy/redis/start.sh", dir, "echo", "started").CombinedOutput()
		if err != nil || !strings.HasSuffix(string(output), "started\n") {
			t.Fatalf("%v: %s", err, output)
		}
		after, err := os.ReadFile(file)
		must(t, err)
		return string(after)
	}
	// Redis itself cuts off a single command that is incomplete.
	for n := len(command("MULTI")) - 4; n < len(script); n += 3 {
		if left := start(whole + script[:n]); left != whole {
			t.Errorf("of %q was left %q", script[:n], left)
		}
	}
	for n := len(command("MULTI")); n < len(message); n += 29 {
		if left := start(whole + script + message[:n]); left != whole+script {
			t.Errorf("of %q was left %q", message[:n], left)
		}
	}
	for n := len(message) - 6; n < len(message); n++ {
		if left := start(whole + message[:n]); left != whole {
			t.Errorf("of %q was left %q", message[:n], left)
		}
	}
	for what, content := range map[string]string{
		"nothing":                         "",
		"all of it":                       whole + script,
		"an earlier start's half, inside": whole + script[:40] + strings.Repeat(script, 3),
		"what is no command, inside":      whole + "rubbish\r\n" + strings.Repeat(script, 3),
		"a wrong length, inside":          whole + "*1\r\n$9999\r\nPING\r\n" + strings.Repeat(script, 3),
	} {
		if left := start(content); left != content {
			t.Errorf("%s: of %q was left %q", what, content, left)
		}
	}
}
