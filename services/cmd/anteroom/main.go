// Command anteroom runs the whole system in one process, for development and for trying
// it out. It also contains the load generator, which checks and measures any deployment.
package main

import (
	"context"

	"github.com/alecthomas/kong"

	"github.com/anteroom-chat/anteroom/pkg/run"
)

func main() {
	var cli struct {
		Dev dev `cmd:"" help:"Run everything in one process, on an embedded store or on --redis."`
		measuring
	}
	k := kong.Parse(&cli, kong.Name("anteroom"),
		kong.Description("Real-time rooms with a fixed number of seats."), kong.ShortUsageOnError(),
		cli.vars())
	ctx, stop := run.Signals(context.Background())
	defer stop()
	k.BindTo(ctx, (*context.Context)(nil))
	k.FatalIfErrorf(k.Run()) // the error may set the exit status
}
