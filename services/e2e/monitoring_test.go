package e2e

import (
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
)

// selector matches a metric of our processes in an expression, with its label matchers. The
// metrics of HAProxy, and ALERTS and up of Prometheus, are not checked.
var (
	selector = regexp.MustCompile(`\b((?:anteroom|go|process)_\w+)(?:\{([^}]*)\})?`)
	equals   = regexp.MustCompile(`(\w+)="([^"]*)"`)
	ruleExpr = regexp.MustCompile(`(?m)^ +expr: (?:\|\n((?: {10,}.*\n)+)|(.*))`)
)

// missing lists the selectors of the expressions that match nothing in a text of metrics.
func missing(expressions []string, text string) []string {
	lines := strings.Split(text, "\n")
	absent := make(map[string]bool)
	for _, found := range selector.FindAllStringSubmatch(strings.Join(expressions, "\n"), -1) {
		absent[found[0]] = !slices.ContainsFunc(lines, func(line string) bool {
			name, labels, _ := strings.Cut(strings.TrimSuffix(line[:max(0, strings.LastIndexByte(line, ' '))], "}"), "{")
			if name != found[1] {
				return false
			}
			for _, pair := range equals.FindAllString(found[2], -1) {
				if !slices.Contains(strings.Split(labels, ","), pair) {
					return false
				}
			}
			return true
		})
	}
	maps.DeleteFunc(absent, func(_ string, is bool) bool { return !is })
	return slices.Sorted(maps.Keys(absent))
}

// expressions returns the expressions of the dashboard and of the rules.
func expressions(t *testing.T) (dashboard, rules []string) {
	t.Helper()
	deploy := filepath.Join("..", "..", "deploy")
	text, err := os.ReadFile(filepath.Join(deploy, "grafana", "dashboards", "anteroom.json"))
	must(t, err)
	var board struct {
		Panels []struct {
			Targets []struct{ Expr string }
		}
	}
	must(t, json.Unmarshal(text, &board))
	for _, panel := range board.Panels {
		for _, target := range panel.Targets {
			dashboard = append(dashboard, target.Expr)
		}
	}
	text, err = os.ReadFile(filepath.Join(deploy, "prometheus", "rules.yml"))
	must(t, err)
	for _, found := range ruleExpr.FindAllStringSubmatch(string(text), -1) {
		rules = append(rules, found[1]+found[2])
	}
	return dashboard, rules
}

func TestTheDashboardAndTheAlarmsAskForWhatThereIs(t *testing.T) {
	t.Parallel()
	dashboard, rules := expressions(t)
	if len(dashboard) < 20 || len(rules) < 10 {
		t.Fatalf("%d expressions of the dashboard and %d of the rules: this test looks at the wrong place", len(dashboard), len(rules))
	}
	c := cluster.Start(t, cluster.Options{Rooms: 1, Gateways: 1, NoProxy: true})
	users, err := client.New(c.Gateways[0].URL())
	must(t, err)
	t.Cleanup(users.CloseIdleConnections)
	v := &venue{Client: users}
	v.join(t, "", v.room(t, client.RoomSpec{Capacity: 2}).RoomID, v.identity(t, ""))

	// The series of failed requests exists only after the first one, and nothing fails here.
	text := `anteroom_http_requests_total{status="500"} 0` + "\n"
	for _, p := range []*cluster.Process{c.Gateways[0], c.Rooms[0]} {
		body := v.admin(t, p, "/metrics")
		more, err := io.ReadAll(body)
		body.Close()
		must(t, err)
		text += string(more)
	}
	for name, list := range map[string][]string{"the dashboard": dashboard, "the rules": rules} {
		for _, what := range missing(list, text) {
			t.Errorf("%s ask for %s, which nobody has", name, what)
		}
	}
}

func TestWhatNobodyHasIsFound(t *testing.T) {
	t.Parallel()
	const text = "# TYPE anteroom_x_total counter\nanteroom_x_total{code=\"OK\",method=\"/m\"} 1\ngo_goroutines 3\n\n"
	for expression, want := range map[string]string{
		`rate(anteroom_x_total[5m]) + go_goroutines`:               "",
		`anteroom_x_total{code="OK", method=~".*"}`:                "",
		`anteroom_x_total{method="/m",code="OK"}`:                  "",
		`sum by (code) (anteroom_x_total{code="LOST"}) or up == 1`: `anteroom_x_total{code="LOST"}`,
		`anteroom_x{code="OK"}`:                                    `anteroom_x{code="OK"}`,
		`process_max_fds`:                                          `process_max_fds`,
	} {
		if got := strings.Join(missing([]string{expression}, text), " "); got != want {
			t.Errorf("%s: missing %q, want %q", expression, got, want)
		}
	}
}
