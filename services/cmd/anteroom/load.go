//go:build !devonly

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/anteroom-chat/anteroom/services/load"
	"github.com/anteroom-chat/anteroom/services/pace"
)

// measuring holds the commands that the build of `make run` leaves out (tag devonly).
type measuring struct {
	Load loadCmd `cmd:"" help:"Drive a deployment with many users over its public API, and check or measure it."`
}

func (measuring) vars() kong.Vars {
	return kong.Vars{"shapes": strings.Join(pace.ShapeNames(), ", ")}
}

// loadCmd drives a deployment through its public API. With --check it tests the
// deployment, with --shape it measures it.
type loadCmd struct {
	Check       bool          `help:"Storm the target and check what every user observes against the protocol's rules. Exit status: 0 no violation, 1 violations, 2 the target could not be tested." env:"CHECK" xor:"mode"`
	Target      []string      `help:"Base URLs of the deployment, comma-separated; users take them in turn." placeholder:"https://chat.example.com,…" required:"" env:"TARGET"`
	Users       int           `help:"Concurrent users, 1 to 100000. More users than seats makes refusals part of the test." default:"200" env:"USERS"`
	Rooms       int           `help:"Rooms that are created, 1 to 10000." default:"20" env:"ROOMS"`
	Capacity    int           `help:"Seats of each room, 1 to 1000." default:"8" env:"CAPACITY"`
	Duration    time.Duration `help:"How long the storm lasts, 1s to 24h; then it takes up to 40s until every seat is back." default:"20s" env:"DURATION"`
	MessageRate float64       `help:"Messages per second that each member sends, 0 to 1000." default:"1" env:"MESSAGE_RATE"`
	Seed        uint64        `help:"Seed of what the users do; 0 takes one at random." default:"0" env:"SEED"`
	JSON        bool          `name:"json" help:"Print the report as JSON instead of a table." env:"JSON"`

	Shape   string        `help:"Measure instead of check, with a load of this shape: ${shapes}. Several are separated by commas; goals, grow and all name groups. Exit status: 0 measured, 1 something was not delivered exactly once, 2 it could not be measured." env:"SHAPE" xor:"mode"`
	Warmup  time.Duration `help:"How long messages flow before they are measured, with --shape." default:"3s" env:"WARMUP"`
	Window  time.Duration `help:"How long is measured, with --shape; shapes that sit idle take 30s at least." default:"10s" env:"WINDOW"`
	AtOnce  int           `help:"Joins at a time, with --shape." default:"64" env:"AT_ONCE"`
	Process []string      `help:"A process of the deployment on this machine whose CPU time and memory is measured, with --shape: NAME=PID, or NAME=PID@HOST:PORT with its admin port. Names begin with gateway, room or redis. Repeatable. Linux only." placeholder:"NAME=PID[@HOST:PORT]" env:"PROCESS"`
	Profile string        `help:"Directory for CPU, heap, allocation and goroutine profiles of every --process with an admin port, and of this one, taken in the window of each shape." placeholder:"DIR" type:"path" env:"PROFILE"`
}

// exit is an error that sets the exit status of the process.
type exit struct {
	error
	status int
}

func (e exit) ExitCode() int { return e.status }

const (
	statusViolations = 1
	statusUntested   = 2
)

// Run prints the report to stdout.
func (l *loadCmd) Run(ctx context.Context) error {
	if l.Shape != "" {
		return l.measure(ctx)
	}
	if !l.Check {
		return exit{errors.New("say what to do: --check storms the target and checks the rules, --shape measures it"), statusUntested}
	}
	if l.Seed == 0 {
		l.Seed = rand.Uint64()
	}
	fmt.Fprintf(os.Stderr, "%d users storm %d rooms of %d seats for %v at %s\n",
		l.Users, l.Rooms, l.Capacity, l.Duration, strings.Join(l.Target, ", "))
	report, err := load.Check(ctx, load.Config{
		Targets: l.Target, Users: l.Users, Rooms: l.Rooms, Capacity: l.Capacity, Duration: l.Duration,
		MessageRate: l.MessageRate, Seed: l.Seed,
	})
	if err == nil || report.Admitted > 0 {
		if err := l.print(report); err != nil {
			return exit{err, statusUntested}
		}
	}
	switch {
	case report.Violations > 0:
		return exit{fmt.Errorf("%d violations", report.Violations), statusViolations}
	case err != nil:
		return exit{err, statusUntested}
	}
	return nil
}

func (l *loadCmd) print(report load.Report) error {
	if l.JSON {
		return report.WriteJSON(os.Stdout)
	}
	return report.WriteText(os.Stdout)
}
