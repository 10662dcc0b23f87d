// Command bench is `make bench`. For each shape of load it starts a new cluster on
// loopback (Redis, a room service, two gateways, no proxy), drives it with `anteroom
// load --shape`, and prints the results of all shapes in one table.
//
//	bench --shape small --window 20s --profile .run/profiles
//
// It writes two files to --out: TIME.json with everything that was measured, and TIME.txt
// with the figures in the format that benchstat reads.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/anteroom-chat/anteroom/pkg/run"
	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
	"github.com/anteroom-chat/anteroom/services/pace"
)

// bench is the command line.
type bench struct {
	Shape   string        `help:"Shapes of load, comma-separated: ${shapes}, or goals, grow, all." default:"all" env:"SHAPE"`
	Warmup  time.Duration `help:"How long messages flow before they are measured." default:"3s" env:"WARMUP"`
	Window  time.Duration `help:"How long is measured; shapes that sit idle take 30s at least." default:"10s" env:"WINDOW"`
	Profile string        `help:"Directory for profiles of gateways, room service and driver." placeholder:"DIR" type:"path" env:"PROFILE"`
	Setting []string      `help:"Setting of room service and gateways, as in the environment. Repeatable." placeholder:"NAME=VALUE" env:"SETTING"`
	Out     string        `help:"Directory for the results." default:".run/bench" type:"path" env:"OUT"`
	Keep    bool          `help:"Leave the cluster of the last shape running until interrupted, and tell its ports." env:"KEEP"`
}

func main() {
	b := new(bench)
	k := kong.Parse(b, kong.Name("bench"), kong.Vars{"shapes": strings.Join(pace.ShapeNames(), ", ")},
		kong.Description("Measures Anteroom on real processes on loopback."))
	ctx, stop := run.Signals(context.Background())
	defer stop()
	k.FatalIfErrorf(b.run(ctx))
}

func (b *bench) run(ctx context.Context) error {
	shapes, err := pace.Shapes(b.Shape)
	if err != nil {
		return err
	}
	var results []pace.Result
	var errs []error
	for i, shape := range shapes {
		measured, err := b.measure(ctx, shape.Name, b.Keep && i == len(shapes)-1)
		results = append(results, measured...)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", shape.Name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(append(errs, b.write(results))...)
}

// measure runs one shape on a cluster of its own. Each process uses one core (GOMAXPROCS=1):
// the processes share few cores, and more threads would only wake each other.
func (b *bench) measure(ctx context.Context, shape string, keep bool) ([]pace.Result, error) {
	dir, err := os.MkdirTemp("", "anteroom-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	c, err := cluster.Open(ctx, dir, cluster.Options{
		Rooms: 1, Gateways: 2, NoProxy: true, Settings: append([]string{"MESSAGE_RATE=0", "GOMAXPROCS=1"}, b.Setting...),
	})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	results, err := b.drive(ctx, c, shape)
	for _, p := range c.Processes() {
		if !p.Running() {
			err = errors.Join(err, fmt.Errorf("%s has ended:\n%s", p.Name, p.LogTail(4<<10)))
		}
	}
	if keep && err == nil {
		for _, p := range c.Processes() {
			fmt.Fprintf(os.Stderr, "%s: process %d, %s, admin port %s\n", p.Name, p.PID(), p.Addr(), p.AdminAddr())
		}
		<-ctx.Done()
	}
	return results, err
}

// drive runs `anteroom load` and reads what it prints.
func (b *bench) drive(ctx context.Context, c *cluster.Cluster, shape string) ([]pace.Result, error) {
	bin, err := cluster.Bin("anteroom")
	if err != nil {
		return nil, err
	}
	args := []string{"load", "--json", "--shape=" + shape, "--warmup=" + b.Warmup.String(), "--window=" + b.Window.String()}
	if b.Profile != "" {
		args = append(args, "--profile="+b.Profile)
	}
	for _, g := range c.Gateways {
		args = append(args, "--target="+g.URL())
	}
	for _, p := range c.Processes() {
		process := fmt.Sprintf("--process=%s=%d", p.Name, p.PID())
		if p.AdminAddr() != "" {
			process += "@" + p.AdminAddr()
		}
		args = append(args, process)
	}
	load := exec.CommandContext(ctx, bin, args...)
	load.Stderr = os.Stderr
	output, failed := load.Output()
	var results []pace.Result
	if len(output) > 0 {
		if err := json.Unmarshal(output, &results); err != nil {
			return nil, fmt.Errorf("what anteroom load printed: %w", err)
		}
	}
	return results, failed
}

// write prints the table and writes the files.
func (b *bench) write(results []pace.Result) error {
	if len(results) == 0 {
		return nil
	}
	if err := os.MkdirAll(b.Out, 0o755); err != nil {
		return err
	}
	base := filepath.Join(b.Out, time.Now().Format("20060102-150405"))
	text, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(base+".json", append(text, '\n'), 0o644); err != nil {
		return err
	}
	file, err := os.Create(base + ".txt")
	if err != nil {
		return err
	}
	if err := errors.Join(pace.WriteBenchmarks(file, results), file.Close()); err != nil {
		return err
	}
	fmt.Println()
	if err := pace.WriteTable(os.Stdout, results); err != nil {
		return err
	}
	fmt.Printf("\n%s.json has all of it, and benchstat compares %s.txt with that of another run.\n", base, base)
	return nil
}
