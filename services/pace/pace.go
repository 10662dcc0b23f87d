// Package pace measures what a deployment costs and how fast it is: it seats the members
// of a Shape over the public API, lets them talk in an open loop, and counts what each of
// them receives.
//
//	seat    make identities and rooms; then reserve, connect, confirm, 64 at a time
//	warm up messages flow, nothing is counted
//	window  messages flow; measure deliveries, CPU time of the servers, latency
//	drain   every message must come to every member exactly once
//
// It runs on the same machine as the deployment, so it must be cheap: a goroutine for each
// target reads all sockets there into one buffer, and looks only at the header, the type and
// the seq of a frame. Another goroutine sends. Latency counts from when a message was due,
// which the message carries, to when the read that brought it returned. So a sender that is
// late, for whatever reason, makes the figures worse and never better.
package pace

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Config says what to drive, and what to measure meanwhile.
type Config struct {
	Targets   []string      // base URLs; the members of every room are spread over them
	Shape     Shape         // of the load
	Warmup    time.Duration // before the window, 0 is 3 s
	Window    time.Duration // how long is measured, 0 is 10 s; at least the shape's Least
	RawWrite  time.Duration // how long the raw write is measured, before and after; 0 is 700 ms
	AtOnce    int           // joins at a time, 0 is 64
	Processes []Process     // of the deployment, on this machine; if empty, CPU and memory are not measured
	Profiles  string        // directory for profiles of Processes and of this process; empty for none
	Progress  func(string)  // called with what is being done; may be nil
}

// Process is one of the deployment's processes. The Result has separate figures for those
// whose names begin with redis, room and gateway.
type Process struct {
	Name  string
	PID   int
	Admin string // base URL of its admin port, which serves its profiles; may be empty
}

func (c *Config) complete() error {
	if len(c.Targets) == 0 {
		return errors.New("no target")
	}
	if err := c.Shape.check(); err != nil {
		return err
	}
	if c.Warmup == 0 {
		c.Warmup = 3 * time.Second
	}
	if c.Window == 0 {
		c.Window = 10 * time.Second
	}
	c.Window = max(c.Window, c.Shape.Least)
	if c.RawWrite == 0 {
		c.RawWrite = 700 * time.Millisecond
	}
	if c.AtOnce == 0 {
		c.AtOnce = 64
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	switch {
	case c.AtOnce < 1:
		return fmt.Errorf("--at-once is %d, less than 1", c.AtOnce)
	case c.Warmup < 0:
		return fmt.Errorf("--warmup is %v, less than 0", c.Warmup)
	case c.Window < time.Second:
		return fmt.Errorf("--window is %v, less than 1s", c.Window)
	}
	return nil
}

const (
	idleWindow  = 30 * time.Second // six renewals of each lease, and a ping
	drainWithin = 20 * time.Second // for messages on their way to reach everybody
)

// Run drives the targets and returns what it measured.
func Run(ctx context.Context, cfg Config) (Result, error) {
	if err := cfg.complete(); err != nil {
		return Result{}, fmt.Errorf("pace: %w", err)
	}
	r := &run{cfg: cfg, result: newResult(cfg)}
	if err := r.drive(ctx); err != nil {
		return r.result, fmt.Errorf("pace: %s: %w", cfg.Shape.Name, err)
	}
	r.result.judge(cfg.Shape.Goal)
	return r.result, nil
}

// run is one run of a shape.
type run struct {
	cfg    Config
	result Result
	crowd  *crowd
}

// rawWrite measures the machine's own limit. It is called before and after the run; the
// mean counts.
func (r *run) rawWrite(ctx context.Context) error {
	r.cfg.Progress("measure the raw write")
	cost, err := RawWrite(ctx, r.cfg.RawWrite)
	if err != nil {
		return fmt.Errorf("raw write: %w", err)
	}
	r.result.addRaw(cost)
	return nil
}

func (r *run) drive(ctx context.Context) error {
	if err := r.rawWrite(ctx); err != nil {
		return err
	}
	before, err := look(r.cfg.Processes)
	if err != nil {
		return err
	}
	r.crowd, err = newCrowd(r.cfg)
	if err != nil {
		return err
	}
	defer r.crowd.close()
	if err := r.crowd.prepare(ctx); err != nil {
		return err
	}
	if r.cfg.Shape.Kind == Join {
		err = r.join(ctx)
	} else {
		err = r.talk(ctx)
	}
	if err != nil {
		return err
	}
	after, err := look(r.cfg.Processes)
	if err != nil {
		return err
	}
	r.result.addMemory(before, after)
	return r.rawWrite(ctx) // while the members are idle: leaving would disturb it
}

// join measures the joins themselves, all but the first tenth.
func (r *run) join(ctx context.Context) error {
	c := r.crowd
	first := len(c.members) / 10
	r.cfg.Progress(fmt.Sprintf("seat %d members to warm up, then %d", first, len(c.members)-first))
	if err := c.seat(ctx, c.members[:first]); err != nil {
		return err
	}
	c.joins.reset()
	w, err := r.open()
	if err != nil {
		return err
	}
	if err := c.seat(ctx, c.members[first:]); err != nil {
		return err
	}
	if err := w.close(); err != nil {
		return err
	}
	r.result.addWindow(w, int64(len(c.members)-first))
	r.result.addLatency(&c.joins)
	return r.drained(ctx)
}

// talk measures what members who are seated cost.
func (r *run) talk(ctx context.Context) error {
	c := r.crowd
	r.cfg.Progress(fmt.Sprintf("seat %d members", len(c.members)))
	if err := c.seat(ctx, c.members); err != nil {
		return err
	}
	begin := now()
	from := begin + r.cfg.Warmup
	until := from + r.cfg.Window
	c.watch(from, until)
	sending := c.talk(ctx, begin, until)
	r.cfg.Progress(fmt.Sprintf("warm up for %v, measure for %v", r.cfg.Warmup, r.cfg.Window))
	w, err := r.window(ctx, from, until)
	if waited := sending.wait(); err == nil {
		err = waited
	}
	if err != nil {
		return err
	}
	if err := r.drained(ctx); err != nil {
		return err
	}
	r.result.addWindow(w, 0)
	r.result.addLatency(c.latency())
	r.result.LateP99 = millis(sending.late.quantile(0.99))
	return nil
}

// window waits until the window is over, and reads the usage at its beginning and its end.
func (r *run) window(ctx context.Context, from, until time.Duration) (*window, error) {
	if err := pause(ctx, from-now()); err != nil {
		return nil, err
	}
	w, err := r.open()
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, until-now()); err != nil {
		return nil, err
	}
	return w, w.close()
}

// drained waits until every member has everything, and counts what did not come.
func (r *run) drained(ctx context.Context) error {
	r.cfg.Progress("wait for what is on its way")
	for began := now(); r.crowd.owed() && now()-began < drainWithin; {
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	r.crowd.account(&r.result)
	return nil
}

// epoch is when the clock of the runs starts.
var epoch = time.Now()

// now returns the time of the run's clock, which never jumps.
func now() time.Duration { return time.Since(epoch) }

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
