package run

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

// Signals returns a context that ends at the first SIGINT or SIGTERM. The second signal ends
// the process at once with status 128 + signal, as in a shell. stop restores the default
// behaviour of the signals.
func Signals(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	stopped := make(chan struct{})
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for seen := false; ; seen = true {
			select {
			case s := <-signals:
				if seen {
					slog.Error("second signal: leaving at once", "signal", s.String())
					os.Exit(128 + int(s.(syscall.Signal))) //nolint:forcetypeassert // Unix signals are
				}
				slog.Info("signal: stopping; a second one leaves at once", "signal", s.String())
				cancel()
			case <-stopped:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel()
		select {
		case <-stopped:
		default:
			close(stopped)
		}
		<-finished
	}
}
