package e2e

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
)

// That `anteroom load --check` finds what is wrong in a system is tested in package load.
func TestTheCheckerThatUsersRunFindsNothingWrongWithTheCluster(t *testing.T) {
	t.Parallel()
	v := start(t, cluster.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	check := exec.CommandContext(ctx, cluster.Binary(t, "anteroom"), "load", "--check", "--target="+v.URL(),
		"--users=80", "--rooms=8", "--capacity=8", "--duration=8s", "--message-rate=1")
	var told strings.Builder
	check.Stderr = &told
	table, err := check.Output()
	t.Logf("%s\n%s", told.String(), table)
	if err != nil {
		t.Errorf("%v, want exit status 0", err)
	}
	if !strings.Contains(string(table), "over-capacity moments") {
		t.Error("its table says nothing of over-capacity moments")
	}
}
