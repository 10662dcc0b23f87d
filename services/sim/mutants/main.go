// Mutants breaks the rules on purpose, one at a time, in a copy of the source tree, and
// runs the simulation and the store's tests on it: tests that do not find a mutant would
// not find such a mistake either. It prints which test caught which mutant, and fails unless
// all are caught.
//
//	go run ./services/sim/mutants [-seeds 60] [-only name,name] [-parallel 2]
package main

import (
	"cmp"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	seeds    = flag.Int("seeds", 60, "seeds of the simulation for each mutant, at most")
	only     = flag.String("only", "", "the mutants to run, comma-separated; all when empty")
	parallel = flag.Int("parallel", 2, "simulations at a time")
)

// suites are the tests that must find the mutants.
var suites = []struct {
	name string
	args []string
}{
	{"simulation", []string{"./services/sim", "-run", "TestSimulation|TestRegressions"}},
	{"store", []string{"./services/room/...", "-run", "./embedded|.*", "-failfast"}},
}

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run() error {
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := copyTree(dir); err != nil {
		return err
	}
	began := time.Now()
	whole := mutant{name: "none", breaks: "nothing: the suites must pass"}
	by, err := whole.try(dir)
	if err != nil {
		return err
	}
	if len(by) > 0 {
		return fmt.Errorf("the suites fail on the tree as it is, so they would prove nothing: %v", by)
	}
	var escaped []string
	caught := 0
	for _, m := range mutants {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), m.name) {
			continue
		}
		by, err := m.try(dir)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		if len(by) == 0 {
			escaped = append(escaped, m.name)
			by = []string{"NOBODY"}
		} else {
			caught++
		}
		fmt.Printf("%-30s %-62s caught by %s\n", m.name, m.breaks, strings.Join(by, "; "))
	}
	fmt.Printf("%d of %d mutants caught in %v\n", caught, caught+len(escaped), time.Since(began).Round(time.Second))
	if len(escaped) > 0 {
		return fmt.Errorf("nobody caught %s", strings.Join(escaped, ", "))
	}
	return nil
}

// copyTree copies the sources from which the suites are built.
func copyTree(dir string) error {
	for _, part := range []string{"go.work", "go.work.sum", "proto", "pkg", "services"} {
		err := filepath.WalkDir(part, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				if part == "go.work.sum" {
					return nil // it may be missing
				}
				return err
			}
			to := filepath.Join(dir, path)
			if d.IsDir() {
				return os.MkdirAll(to, 0o755)
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(to, data, 0o644)
		})
		if err != nil {
			return fmt.Errorf("%w (run it at the project's root)", err)
		}
	}
	return nil
}

// try makes the mutant, runs the suites on it, and restores the tree. It returns the tests
// that failed.
func (m mutant) try(dir string) (by []string, err error) {
	restore, err := m.apply(dir)
	defer func() {
		for path, was := range restore {
			err = cmp.Or(err, os.WriteFile(path, was, 0o644))
		}
	}()
	if err != nil {
		return nil, err
	}
	for _, suite := range suites {
		args := append([]string{"test", "-count=1", "-timeout=5m", "-parallel", strconv.Itoa(*parallel)}, suite.args...)
		if suite.name == "simulation" {
			args = append(args, "-args", "-first", "-shrink", "0", "-seeds", strconv.Itoa(*seeds))
		}
		cmd := exec.Command("go", args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err == nil {
			continue
		}
		if broken.Match(out) {
			return nil, fmt.Errorf("it breaks a script and not a rule, which proves nothing:\n%s", broken.Find(out))
		}
		tests := failed(string(out))
		if tests == "" {
			return nil, fmt.Errorf("the suite did not run:\n%s", out)
		}
		by = append(by, suite.name+": "+tests)
	}
	return by, nil
}

// apply makes the mutant's edits. The text that an edit replaces must occur exactly once, so
// that a stale mutant is noticed.
func (m mutant) apply(dir string) (restore map[string][]byte, err error) {
	restore = make(map[string][]byte)
	for _, e := range m.edits {
		path := filepath.Join(dir, e.file)
		data, err := os.ReadFile(path)
		if err != nil {
			return restore, err
		}
		if n := strings.Count(string(data), e.old); n != 1 {
			return restore, fmt.Errorf("%q stands in %s %d times, not once", e.old, e.file, n)
		}
		if _, ok := restore[path]; !ok {
			restore[path] = data
		}
		if err := os.WriteFile(path, []byte(strings.Replace(string(data), e.old, e.new, 1)), 0o644); err != nil {
			return restore, err
		}
	}
	return restore, nil
}

var (
	failure   = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)
	broken    = regexp.MustCompile(`(?m)^.*(Error compiling script|\d+s (script|internal): ).*$`)
	violation = regexp.MustCompile(`(?m)^\s+sim_test\.go:\d+:\s+[\d.]+s ([\w]+): `)
)

// failed names the first test that failed, counts the others, and for simulations adds the
// rules that were broken. It considers only tests without failed subtests.
func failed(out string) string {
	var names []string
	for _, m := range failure.FindAllStringSubmatch(out, -1) {
		names = append(names, m[1])
	}
	leaves := slices.DeleteFunc(slices.Clone(names), func(n string) bool {
		return slices.ContainsFunc(names, func(o string) bool { return strings.HasPrefix(o, n+"/") })
	})
	if len(leaves) == 0 {
		if strings.Contains(out, "panic:") {
			return "panic"
		}
		return ""
	}
	text := leaves[0]
	if len(leaves) > 1 {
		text += fmt.Sprintf(" and %d more", len(leaves)-1)
	}
	var rules []string
	for _, m := range violation.FindAllStringSubmatch(out, -1) {
		if !slices.Contains(rules, m[1]) {
			rules = append(rules, m[1])
		}
	}
	if len(rules) > 0 {
		text += " (" + strings.Join(rules, ", ") + ")"
	}
	return text
}
