// Package load drives a deployment with many users over its public API alone, from
// one process.
//
// Check storms it and judges what every user observed:
//
//	prepare  identities for all users; rooms with ids of this run
//	storm    each user goes from room to room: reserves, joins in every way, sends,
//	         repeats, leaves, breaks off, comes back, takes over from another tab,
//	         cancels permits or lets them lapse; meanwhile rooms are asked for their
//	         counts
//	settle   half of those who are left leave, the others break off, and every seat
//	         has to come back
//	judge    package audit: each member's frames, each room's log, and seats that were
//	         certainly taken, against what the protocol promises
//
// Connections that are refused, reset or closed are no violations: the deployment may
// be under faults on purpose. They are counted.
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
	Targets  []string      // base URLs; users take them in turn, and the next one after a failure
	Users    int           // 1–100,000; more than there are seats makes refusals part of the test
	Rooms    int           // 1–10,000
	Capacity int           // seats of a room, 1–1,000
	Duration time.Duration // of the storm, 1 s – 24 h; preparing and settling take up to 1 min more
	// MessageRate is how many messages a member sends a second; 0 is none. Above the
	// deployment's own MESSAGE_RATE they are refused, which is no violation.
	MessageRate float64
	Pace        float64 // stretches how long users stay and rest, 0.1–100; 0 is 1: 2 s in a room
	Seed        uint64  // of what the users do; what comes of it depends on timing too
	Options     []client.Option

	// Enough is asked up to 50 times a second, with what came of the storm so far, and ends
	// it before its time. Nil lets it last for all of Duration.
	Enough func(Report) bool
}

// ErrUntested marks a run that could not test what it is for: the target is out of reach,
// from the start or at the end, or admitted nobody.
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
	case c.Pace != 0 && !(c.Pace >= 0.1 && c.Pace <= 100): // nor NaN
		return fmt.Errorf("pace is %v, outside 0.1 to 100", c.Pace)
	case !(c.MessageRate >= 0 && c.MessageRate <= 1000):
		return fmt.Errorf("--message-rate is %v, outside 0 to 1000", c.MessageRate)
	}
	return nil
}

// Check storms the targets and answers with what was found. The report counts also
// where the error is ErrUntested or ctx's own: as far as the run came. What breaks the
// rules is no error but Report.Violations.
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
