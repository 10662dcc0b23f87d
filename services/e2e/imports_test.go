package e2e

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const ours = "github.com/anteroom-chat/anteroom/"

// goPackage is the output of `go list -json` for a package. Deps does not include the imports
// of tests, which may import anything.
type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

// forTests reports whether the package is only for tests.
func (p goPackage) forTests() bool { return slices.Contains(p.Imports, "testing") }

// brokenImport returns the rule that a package breaks by a dependency, empty for none.
func brokenImport(pkg, dep string) string {
	pkg, mine := strings.CutPrefix(pkg, ours)
	dep, found := strings.CutPrefix(dep, ours)
	if !mine || !found {
		return ""
	}
	under := func(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
	switch {
	case under(pkg, "proto") && !under(dep, "proto"):
		return "proto is the contract that other programs build on: it needs nothing of ours"
	case under(pkg, "pkg") && !under(dep, "pkg") && !under(dep, "proto"):
		return "pkg is what both services stand on: it knows neither of them"
	case under(pkg, "services/gateway") && under(dep, "services/room"),
		under(pkg, "services/room") && under(dep, "services/gateway"):
		return "the services run, scale and fail apart: they meet by gRPC and Redis only"
	case under(pkg, "services/gateway") && under(dep, "services/cmd"), under(pkg, "services/room") && under(dep, "services/cmd"):
		return "commands put services together, never the other way round"
	}
	return ""
}

// goRedis is the Redis client. Packages that are compiled last must not import it; the comment
// of redisdb.Redis says why.
const goRedis = "github.com/redis/go-redis/v9"

// onlyBoth is the one package that holds both services and is not for tests.
const onlyBoth = ours + "services/cmd/anteroom"

func TestThePackagesOfEachServiceStayApart(t *testing.T) {
	t.Parallel()
	packages := goList(t)
	if len(packages) < 10 {
		t.Fatalf("go list knows %d packages only: this test looks at the wrong place", len(packages))
	}
	for _, p := range packages {
		var gateway, room bool
		for _, dep := range p.Deps {
			if why := brokenImport(p.ImportPath, dep); why != "" {
				t.Errorf("%s imports %s (itself or through another): %s", p.ImportPath, dep, why)
			}
			gateway = gateway || strings.HasPrefix(dep, ours+"services/gateway")
			room = room || strings.HasPrefix(dep, ours+"services/room")
		}
		late := strings.HasPrefix(p.ImportPath, ours+"services/gateway") || strings.HasPrefix(p.ImportPath, ours+"services/cmd")
		if late && slices.Contains(p.Imports, goRedis) {
			t.Errorf("%s imports go-redis itself: it reaches Redis through redisdb, roomlog and pipeline", p.ImportPath)
		}
		if gateway && room && p.ImportPath != onlyBoth && !p.forTests() {
			t.Errorf("%s imports the gateway and the room service: only %s runs both in one process, and tests do", p.ImportPath, onlyBoth)
		}
	}
}

func TestTheImportRuleFindsWhatBreaksIt(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		pkg, dep string
		broken   bool
	}{
		{"proto/room/v1", "pkg/wire", true},
		{"pkg/rpc", "proto/room/v1", false},
		{"pkg/rpc", "services/gateway/origin", true},
		{"services/gateway/httpapi", "services/room", true},
		{"services/room/redisstore", "services/gateway", true},
		{"services/room/redisstore", "services/room", false},
		{"services/gateway", "services/cmd/gateway", true},
		{"services/cmd/gateway", "services/gateway", false},
	} {
		if why := brokenImport(ours+row.pkg, ours+row.dep); (why != "") != row.broken {
			t.Errorf("%s imports %s: %q", row.pkg, row.dep, why)
		}
	}
}

// goList lists every package of the workspace.
func goList(t *testing.T) []goPackage {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps", "work")
	list.Env = append(os.Environ(), "GOWORK=") // use the workspace even if the caller has turned it off
	output, err := list.Output()
	if err != nil {
		stderr := ""
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			stderr = string(e.Stderr)
		}
		t.Fatalf("go list: %v\n%s", err, stderr)
	}
	var packages []goPackage
	for decoder := json.NewDecoder(strings.NewReader(string(output))); ; {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}
