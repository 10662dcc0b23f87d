//go:build !devonly

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/anteroom-chat/anteroom/services/pace"
)

// measure drives the shapes one after the other and prints what they cost.
func (l *loadCmd) measure(ctx context.Context) error {
	shapes, err := pace.Shapes(l.Shape)
	if err != nil {
		return exit{err, statusUntested}
	}
	cfg := pace.Config{
		Targets: l.Target, Warmup: l.Warmup, Window: l.Window, AtOnce: l.AtOnce, Profiles: l.Profile,
	}
	for _, text := range l.Process {
		process, err := pace.ParseProcess(text)
		if err != nil {
			return exit{err, statusUntested}
		}
		cfg.Processes = append(cfg.Processes, process)
	}
	var results []pace.Result
	for _, cfg.Shape = range shapes {
		cfg.Progress = func(what string) { fmt.Fprintf(os.Stderr, "%s: %s\n", cfg.Shape.Name, what) }
		var result pace.Result
		if result, err = pace.Run(ctx, cfg); err != nil {
			break
		}
		results = append(results, result)
	}
	if printed := l.printResults(results); printed != nil || err != nil {
		return exit{errors.Join(err, printed), statusUntested}
	}
	for _, r := range results {
		if r.Failed() {
			return exit{fmt.Errorf("%s: not everything was delivered exactly once", r.Shape), statusViolations}
		}
	}
	return nil
}

func (l *loadCmd) printResults(results []pace.Result) error {
	if len(results) == 0 {
		return nil
	}
	if l.JSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(results)
	}
	return pace.WriteTable(os.Stdout, results)
}
