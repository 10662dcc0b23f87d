package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
)

// Group runs components together: when its context ends or any of them returns,
// all are stopped, last added first.
type Group struct {
	Logger *slog.Logger // default: slog.Default()

	components []*component
}

type component struct {
	name string
	run  func(ctx context.Context) error
	stop context.CancelFunc
	done chan struct{} // closed when run has returned, err set before
	err  error
}

// Add adds a component. run works until ctx ends, cleans up within a bound of its
// own (the group sets none: only the component knows what it may cut), and returns
// nil. It may use every component that was added before it.
func (g *Group) Add(name string, run func(ctx context.Context) error) {
	g.components = append(g.components, &component{name: name, run: run, done: make(chan struct{})})
}

// Run starts all components and returns when all have ended, with the errors of
// those that failed. A component that returns before it was asked to ends the
// group, with an error even if it had none itself.
func (g *Group) Run(ctx context.Context) error {
	if g.Logger == nil {
		g.Logger = slog.Default()
	}
	ended := make(chan *component, len(g.components))
	for _, c := range g.components {
		// Not a child of ctx: each is stopped in its turn.
		own, stop := context.WithCancel(context.WithoutCancel(ctx))
		c.stop = stop
		go func() {
			c.err = c.run(own)
			close(c.done)
			ended <- c
		}()
	}
	var early error
	select {
	case <-ctx.Done():
		g.Logger.Info("stopping")
	case c := <-ended:
		early = fmt.Errorf("%s ended", c.name)
		if c.err != nil {
			early = nil // stopAll reports it
		}
		g.Logger.Error("stopping: a component ended by itself", "component", c.name, "err", c.err)
	}
	return errors.Join(early, g.stopAll())
}

// stopAll ends the components one by one, last added first.
func (g *Group) stopAll() error {
	var errs []error
	for i := len(g.components) - 1; i >= 0; i-- {
		c := g.components[i]
		c.stop()
		<-c.done
		if c.err != nil && !errors.Is(c.err, context.Canceled) {
			errs = append(errs, fmt.Errorf("%s: %w", c.name, c.err))
		}
		g.Logger.Debug("stopped", "component", c.name)
	}
	return errors.Join(errs...)
}
