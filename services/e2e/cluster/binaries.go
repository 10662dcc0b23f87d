package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// BinEnv is the environment variable with the directory of the binaries that `make test` has
// built. Without it each test process builds them once.
const BinEnv = "ANTEROOM_BIN"

// built is the directory made by buildOnce, for Main to remove.
var built string

// Main runs the tests of a package and cleans up after them:
//
//	func TestMain(m *testing.M) { cluster.Main(m) }
func Main(m *testing.M) {
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}

// Binary returns the path of a binary of the project: room, gateway or anteroom.
func Binary(tb testing.TB, name string) string {
	tb.Helper()
	path, err := Bin(name)
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// Bin is Binary outside a test.
func Bin(name string) (string, error) {
	dir, err := binaries()
	return filepath.Join(dir, name), err
}

func binaries() (string, error) {
	if dir := os.Getenv(BinEnv); dir != "" {
		for _, name := range []string{"room", "gateway", "anteroom"} {
			if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
				return "", fmt.Errorf("%s: %w", BinEnv, err)
			}
		}
		return dir, nil
	}
	return buildOnce()
}

var buildOnce = sync.OnceValues(func() (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	if built, err = os.MkdirTemp("", "anteroom-bin-"); err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-o", built, "./cmd/room", "./cmd/gateway", "./cmd/anteroom")
	build.Dir = root
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the binaries: %w\n%s", err, output)
	}
	return built, nil
})

// moduleRoot returns the directory of the module services, found from this source file's
// path.
func moduleRoot() (string, error) {
	_, file, _, ok := runtime.Caller(0)
	if !ok || !filepath.IsAbs(file) {
		return "", errors.New("where the sources are is not known: build the tests without -trimpath")
	}
	return filepath.Join(filepath.Dir(file), "..", ".."), nil
}
