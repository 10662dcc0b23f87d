// Package load drives a deployment with many users, from one process and only over the
// public API.
//
// Check runs a storm on it and judges what every user observed:
//
//	prepare  identities for all users; rooms with ids of this run
//	storm    each user goes from room to room: reserves, joins in every way, sends,
//	         repeats messages, leaves, breaks the connection, comes back, takes over
//	         from another tab, cancels permits or lets them lapse; meanwhile the
//	         counts of the rooms are polled
//	settle   half of the remaining members leave, the others break the connection, and
//	         every seat must become free
//	judge    package audit compares each member's frames, each room's log, and the
//	         seats that were certainly taken with what the protocol promises
//
// Refused, reset or closed connections are not violations, since the deployment may be
// under faults on purpose. They are counted.
package load

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// Config says what to drive, and how hard.
type Config struct {
	Targets  []string      // base URLs; users are spread over them, and go on to the next after a failure
	Users    int           // 1–100,000; with more users than seats, refusals are part of the test
	Rooms    int           // 1–10,000
	Capacity int           // seats of a room, 1–1,000
	Duration time.Duration // of the storm, 1 s – 24 h; preparing and settling take up to 1 min more
	// MessageRate is how many messages a member sends a second; 0 is none. Above the
	// deployment's own MESSAGE_RATE they are refused, which is not a violation.
	MessageRate float64
	Pace        float64 // factor for how long users stay and rest, 0.1–100; 0 is 1: a mean of 2 s in a room
	Seed        uint64  // of what the users do; the outcome depends on timing too
	Options     []client.Option

	// Enough is called up to 50 times a second with the results so far. When it returns true,
	// the storm ends early. If it is nil, the storm lasts for all of Duration.
	Enough func(Report) bool
}

// ErrUntested marks a run that could not test the target: it was out of reach at the start
// or at the end, or it admitted nobody.
var ErrUntested = errors.New("the target could not be tested")

func (c Config) validate() error {
	switch {
	case len(c.Targets) == 0:
		return errors.New("no target")
	case c.Users < 1 || c.Users > 100_000:
		return fmt.Errorf("--users is %d, outside 1 to 100000", c.Users)
	case c.Rooms < 1 || c.Rooms > 10_000:
		return fmt.Errorf("--rooms is %d, outside 1 to 10000", c.Rooms)
	case c.Capacity < 1 || c.Capacity > wire.MaxFullPresence:
		return fmt.Errorf("--capacity is %d, outside 1 to %d", c.Capacity, wire.MaxFullPresence)
	case c.Duration < time.Second || c.Duration > 24*time.Hour:
		return fmt.Errorf("--duration is %v, outside 1s to 24h", c.Duration)
	case c.Pace != 0 && !(c.Pace >= 0.1 && c.Pace <= 100): // refuses NaN too
		return fmt.Errorf("pace is %v, outside 0.1 to 100", c.Pace)
	case !(c.MessageRate >= 0 && c.MessageRate <= 1000):
		return fmt.Errorf("--message-rate is %v, outside 0 to 1000", c.MessageRate)
	}
	return nil
}

// Check runs a storm on the targets and reports what it found. If the error is ErrUntested
// or that of ctx, the report is valid as far as the run got. Broken rules are not an error
// but counted in Report.Violations.
func Check(ctx context.Context, cfg Config) (Report, error) {
	if err := cfg.validate(); err != nil {
		return Report{}, fmt.Errorf("load: %w", err)
	}
	s, err := newStorm(cfg)
	if err != nil {
		return Report{}, fmt.Errorf("load: %w", err)
	}
	defer s.crowd.close()
	if err := s.crowd.prepare(ctx, cfg.Users); err != nil {
		return s.tally.report(cfg), fmt.Errorf("load: %w: %w", ErrUntested, err)
	}
	s.run(ctx)
	if ctx.Err() == nil {
		s.settle(ctx)
	}
	s.end()
	s.judge()
	report := s.tally.report(cfg)
	switch {
	case ctx.Err() != nil:
		return report, fmt.Errorf("load: %w", ctx.Err())
	case report.Admitted == 0:
		return report, fmt.Errorf("load: %w: nobody was admitted", ErrUntested)
	case report.RoomsUnsettled > 0:
		return report, fmt.Errorf("load: %w: whether the seats of %d of %d rooms came back is not known", ErrUntested, report.RoomsUnsettled, cfg.Rooms)
	}
	return report, nil
}
