package load

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/audit"
)

const (
	toldViolations = 20 // reported with their details
	errorKinds     = 40 // counted separately
)

// tally counts what happens.
type tally struct {
	deliveries, gaps, sent, echoed atomic.Int64

	mu sync.Mutex // guards what follows
	r  Report
}

func newTally() *tally {
	var t tally
	t.r.Refused = make(map[wire.Code]int64)
	t.r.MessagesRefused = make(map[wire.Code]int64)
	t.r.Closes = make(map[string]int64)
	t.r.Errors = make(map[string]int64)
	t.r.Kinds = make(map[audit.Kind]int64)
	return &t
}

// add changes the report.
func (t *tally) add(change func(r *Report)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change(&t.r)
}

// found counts violations.
func (t *tally) found(vs ...audit.Violation) {
	if len(vs) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, v := range vs {
		t.r.Violations++
		t.r.Kinds[v.Kind]++
		switch v.Kind {
		case audit.OverCapacity:
			t.r.OverCapacity++
		case audit.SeqMissing:
			t.r.SeqsMissing += v.Count
		case audit.SeqDouble, audit.SeqConflict:
			t.r.SeqsDouble += v.Count
		}
		if len(t.r.First) < toldViolations {
			t.r.First = append(t.r.First, v)
		}
	}
}

// failed counts a failure, and reports whether it is a definite refusal: then the service
// has done nothing.
func (t *tally) failed(err error) (refused bool) {
	if refusal, ok := errors.AsType[*wire.Error](err); ok {
		t.add(func(r *Report) { r.Refused[refusal.Code]++ })
		return refusal.Code != wire.Unavailable && refusal.Code != wire.Internal
	}
	if errors.Is(err, client.ErrProtocol) {
		t.found(audit.Violation{Kind: audit.WrongFrame, Count: 1, Detail: err.Error()})
		return false
	}
	t.error(errorKind(err))
	return false
}

func (t *tally) error(kind string) {
	t.add(func(r *Report) {
		if _, known := r.Errors[kind]; !known && len(r.Errors) >= errorKinds {
			kind = "others"
		}
		r.Errors[kind]++
	})
}

// errorKind names what went wrong with a connection, so that it can be counted.
func errorKind(err error) string {
	var timeout net.Error
	var dns *net.DNSError
	if end, ok := errors.AsType[*client.CloseError](err); ok && end.Code != client.CloseAbnormal {
		return "closed with " + closeName(end.Code)
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection ended without an answer"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "interrupted"
	case errors.As(err, &dns):
		return "name not found"
	}
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err.Error()
}

// back notes how long a seat stayed taken after LEAVE, or after its socket broke.
func (t *tally) back(d time.Duration, leaving bool) {
	t.add(func(r *Report) {
		if leaving {
			r.BackAfterLeave = max(r.BackAfterLeave, Seconds(d))
		} else {
			r.BackAfterBreak = max(r.BackAfterBreak, Seconds(d))
		}
	})
}

// report returns what was counted so far.
func (t *tally) report(cfg Config) Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.r
	r.Targets, r.Users, r.Rooms, r.Capacity, r.Seed = cfg.Targets, cfg.Users, cfg.Rooms, cfg.Capacity, cfg.Seed
	r.Deliveries, r.Gaps, r.Sent, r.Echoed = t.deliveries.Load(), t.gaps.Load(), t.sent.Load(), t.echoed.Load()
	r.Refused, r.MessagesRefused = maps.Clone(r.Refused), maps.Clone(r.MessagesRefused)
	r.Closes, r.Errors, r.Kinds = maps.Clone(r.Closes), maps.Clone(r.Errors), maps.Clone(r.Kinds)
	return r
}
