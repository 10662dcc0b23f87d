package e2e

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
)

// runBinary runs a binary that should end by itself at once.
func runBinary(t *testing.T, environment []string, words ...string) (output string, err error) {
	t.Helper()
	cmd := exec.CommandContext(within(t, 10*time.Second), cluster.Binary(t, words[0]), words[1:]...)
	cmd.Env = environment
	out, err := cmd.CombinedOutput()
	return string(out), err
}

var flagInHelp = regexp.MustCompile(`(?m)^ +(?:-h, )?--(?:\[no-\])?([a-z-]+)`)

func TestEverySettingIsAFlagAndAVariableOfTheSameName(t *testing.T) {
	t.Parallel()
	for command, least := range map[string]int{"gateway": 15, "room": 5, "anteroom dev": 14, "anteroom load": 8} {
		help, err := runBinary(t, nil, append(strings.Fields(command), "--help")...)
		if err != nil {
			t.Errorf("%s --help: %v", command, err)
		}
		flags := flagInHelp.FindAllStringSubmatch(help, -1)
		if len(flags) < least {
			t.Errorf("%s --help lists %d flags", command, len(flags))
		}
		for _, flag := range flags {
			variable := "($" + strings.ToUpper(strings.ReplaceAll(flag[1], "-", "_")) + ")"
			if flag[1] != "help" && !strings.Contains(help, variable) {
				t.Errorf("%s: --%s has no variable %s", command, flag[1], variable)
			}
		}
	}
}

// A setting that compose does not pass on would be ignored silently.
func TestComposePassesSettingsOn(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docker-compose.yml")
	must(t, err)
	for _, command := range []string{"gateway", "room"} {
		_, service, _ := strings.Cut(string(text), "\n  "+command+":\n")
		service, _, _ = strings.Cut(service, "\n\n")
		help, err := runBinary(t, nil, command, "--help")
		must(t, err)
		for _, flag := range flagInHelp.FindAllStringSubmatch(help, -1) {
			switch flag[1] {
			case "help", "healthcheck", "listen", "admin-listen": // the image sets them
			case "gateway-id": // must differ between replicas
			default:
				if name := strings.ToUpper(strings.ReplaceAll(flag[1], "-", "_")); !strings.Contains(service, "\n      "+name+":") {
					t.Errorf("docker-compose.yml does not pass %s on to %s", name, command)
				}
			}
		}
	}
}

// The check must come before the connection to Redis, since no Redis runs here.
func TestAWrongSettingStopsTheStartWithALineThatNamesIt(t *testing.T) {
	t.Parallel()
	gateway := map[string]string{
		"GATEWAY_ID": "a b", "REDIS": "http://127.0.0.1", "LISTEN": "8080", "ADMIN_LISTEN": "127.0.0.1:99999", "ROOMS": "127.0.0.1:99999",
		"IDENTITY_KEY": "short", "IDENTITY_TTL": "10ms", "ALLOWED_ORIGINS": "https://a.example/path", "MAX_FRAME_BYTES": "255",
		"MESSAGE_RATE": "NaN", "MESSAGE_BURST": "0", "FRAME_RATE": "-1", "FRAME_BURST": "0", "MAX_SOCKETS": "-1", "CONNECT_RATE": "Inf", "CONNECT_BURST": "-1", "WALK_IN": "maybe", "HTTP_RATE": "-1", "HTTP_BURST": "-1",
		"TRUST_PROXY": "maybe", "PARTITIONS": "4097", "DRAIN_TIMEOUT": "31s", "TRACES": "collector:4317", "TRACE_SHARE": "NaN", "LOG_LEVEL": "loud", "HEALTHCHECK": "true",
	}
	room := map[string]string{"REDIS": "redis://127.0.0.1:6379/-1", "LISTEN": ":port:", "ADMIN_LISTEN": "x", "PARTITIONS": "many", "LOG_LEVEL": "", "TRACES": "http://collector", "TRACE_SHARE": "1.1"}
	dev := map[string]string{"REDIS": "redis://:secret@[::1", "LISTEN": "", "IDENTITY_KEY": "short", "MESSAGE_RATE": "+Inf", "PARTITIONS": "0"}
	check := map[string]string{"MESSAGE_RATE": "NaN", "USERS": "0", "ROOMS": "10001", "CAPACITY": "1001", "DURATION": "1ms"}
	shape := map[string]string{"WINDOW": "-1s", "WARMUP": "-1s", "AT_ONCE": "-1"}
	for command, settings := range map[string]map[string]string{
		"gateway": gateway, "room": room, "anteroom dev": dev,
		"anteroom load --check --target=http://127.0.0.1:1": check, "anteroom load --shape=small --target=http://127.0.0.1:1": shape,
	} {
		for variable, value := range settings {
			environment := []string{"IDENTITY_KEY=0123456789abcdef0123456789abcdef", variable + "=" + value}
			output, err := runBinary(t, environment, strings.Fields(command)...)
			lines := strings.Split(strings.TrimSpace(output), "\n")
			flag := "--" + strings.ToLower(strings.ReplaceAll(variable, "_", "-"))
			if last := lines[len(lines)-1]; err == nil || !strings.Contains(last, "error: ") || !strings.Contains(last, flag) || strings.Contains(last, "secret") {
				t.Errorf("%s with %s=%q: %v, %s", command, variable, value, err, last)
			}
		}
	}
}

func TestAHealthCheckEndsWithItsAnswer(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"gateway", "room", "anteroom dev"} {
		for _, probe := range []string{"live", "ready"} {
			words := append(strings.Fields(command), "--healthcheck="+probe, "--admin-listen=127.0.0.1:1")
			if output, err := runBinary(t, nil, words...); err == nil || !strings.Contains(output, "error: health check: ") {
				t.Errorf("%s, where nobody listens: %v, %s", strings.Join(words, " "), err, output)
			}
		}
	}
}
