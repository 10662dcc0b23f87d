package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
)

// Group runs components together. When its context ends or any component returns, all are
// stopped, the last added first.
type Group struct {
	Logger *slog.Logger // default: slog.Default()

	components []*component
}

type component struct {
	name string
	run  func(ctx context.Context) error
	stop context.CancelFunc
	done chan struct{} // closed when run has returned; err is set before
	err  error
}

// Add adds a component. run should work until ctx ends, clean up within a time limit of its
// own, and return nil. The group sets no limit: only the component knows what it may cut
// short. run may use every component that was added before it.
func (g *Group) Add(name string, run func(ctx context.Context) error) {
	g.components = append(g.components, &component{name: name, run: run, done: make(chan struct{})})
}

// Run starts all components and returns when all have ended, with the errors of those that
// failed. A component that returns before it was asked to ends the group, and Run then
// returns an error even if the component did not.
func (g *Group) Run(ctx context.Context) error {
	if g.Logger == nil {
		g.Logger = slog.Default()
	}
	ended := make(chan *component, len(g.components))
	for _, c := range g.components {
		// Not cancelled by ctx: the components are stopped one after the other.
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

// stopAll ends the components one by one, the last added first.
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
