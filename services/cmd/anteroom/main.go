// Command anteroom is the whole system in one process, for trying out and developing.
package main

import (
	"context"
	"os"

	"github.com/alecthomas/kong"

	"github.com/anteroom-chat/anteroom/pkg/run"
)

func main() {
	var cli struct {
		Dev dev `cmd:"" help:"Run everything in one process, on an embedded store or on --redis."`
	}
	k := kong.Parse(&cli, kong.Name("anteroom"),
		kong.Description("Real-time rooms with a fixed number of seats."),
		kong.UsageOnError())
	ctx, stop := run.Signals(context.Background())
	defer stop()
	k.BindTo(ctx, (*context.Context)(nil))
	if err := k.Run(); err != nil {
		k.Errorf("%v", err)
		os.Exit(1)
	}
}
