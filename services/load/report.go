package load

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/audit"
)

// Seconds is a duration that is a number of seconds in JSON.
type Seconds time.Duration

// MarshalJSON writes seconds with at most three decimals.
func (s Seconds) MarshalJSON() ([]byte, error) {
	return json.Marshal(float64(time.Duration(s).Round(time.Millisecond).Milliseconds()) / 1000)
}

func (s Seconds) String() string { return time.Duration(s).Round(time.Millisecond).String() }

// Report is what a run found.
type Report struct {
	Targets  []string `json:"targets"`
	Users    int      `json:"users"`
	Rooms    int      `json:"rooms"`
	Capacity int      `json:"capacity"`
	Duration Seconds  `json:"durationSeconds"` // of the storm
	Seed     uint64   `json:"seed"`

	Permits   int64               `json:"permits"`   // reserved
	Admitted  int64               `json:"admitted"`  // joins confirmed
	Takeovers int64               `json:"takeovers"` // of them, from another session of the same user
	Rejoins   int64               `json:"rejoins"`   // of them, with after
	Refused   map[wire.Code]int64 `json:"refused"`   // calls and joins, by code

	Sent            int64               `json:"sent"`            // messages written, repetitions too
	Echoed          int64               `json:"echoed"`          // own messages received
	MessagesRefused map[wire.Code]int64 `json:"messagesRefused"` // ERROR frames, by code
	Deliveries      int64               `json:"deliveries"`      // log entries received by anyone
	Entries         int64               `json:"entries"`         // different log entries seen
	Gaps            int64               `json:"gaps"`            // GAP frames
	Samples         int64               `json:"samples"`         // answers about a room's counts

	Silence Seconds `json:"silenceSeconds"` // longest time without an answer about any room, if 0.5 s or more

	OverCapacity   int64   `json:"overCapacity"`          // moments
	SeqsMissing    int64   `json:"seqsMissing"`           // neither delivered nor reported as a GAP
	SeqsDouble     int64   `json:"seqsDouble"`            // delivered twice, out of order, or with different content
	SeatsNotBack   int64   `json:"seatsNotBack"`          // still taken at the end
	RoomsUnsettled int64   `json:"roomsUnsettled"`        // their counts were not known at the end
	BackAfterLeave Seconds `json:"backAfterLeaveSeconds"` // longest time until a seat was free after LEAVE
	BackAfterBreak Seconds `json:"backAfterBreakSeconds"` // and after a broken socket or an unused permit

	Violations int64                `json:"violations"`
	Kinds      map[audit.Kind]int64 `json:"violationsByKind"`
	First      []audit.Violation    `json:"firstViolations"` // 20 at most

	Closes map[string]int64 `json:"closes"` // connections that the other side ended, by code
	Errors map[string]int64 `json:"errors"` // by kind; they are not violations
}

// WriteJSON writes the report as one JSON object.
func (r Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// WriteText writes the report as a table for people.
func (r Report) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name string, value any) { _, _ = fmt.Fprintf(t, "%s\t%v\n", name, value) } // Flush returns the error
	row("target", strings.Join(r.Targets, ", "))
	row("users", r.Users)
	row("rooms", fmt.Sprintf("%d of %d seats", r.Rooms, r.Capacity))
	row("storm", fmt.Sprintf("%v, seed %d", r.Duration, r.Seed))
	row("permits", r.Permits)
	row("joins admitted", fmt.Sprintf("%d (%d takeovers, %d rejoins)", r.Admitted, r.Takeovers, r.Rejoins))
	row("refused", counts(r.Refused))
	row("messages sent", fmt.Sprintf("%d, %d echoed", r.Sent, r.Echoed))
	row("messages refused", counts(r.MessagesRefused))
	row("deliveries", fmt.Sprintf("%d of %d log entries", r.Deliveries, r.Entries))
	row("gaps told", r.Gaps)
	row("room counts asked", r.Samples)
	row("longest silence", r.Silence)
	row("closed by the service", counts(r.Closes))
	row("errors, no violations", counts(r.Errors))
	row("", "")
	row("over-capacity moments", r.OverCapacity)
	row("seqs missing", r.SeqsMissing)
	row("seqs double", r.SeqsDouble)
	row("seats that did not come back", r.SeatsNotBack)
	row("longest to get a seat back", fmt.Sprintf("%v after LEAVE, %v after a broken socket or unused permit", r.BackAfterLeave, r.BackAfterBreak))
	row("violations", violations(r))
	if err := t.Flush(); err != nil {
		return err
	}
	for _, v := range r.First {
		if _, err := fmt.Fprintln(w, "  "+v.String()); err != nil {
			return err
		}
	}
	return nil
}

func violations(r Report) string {
	text := strconv.FormatInt(r.Violations, 10)
	if r.Violations > 0 {
		text += ": " + counts(r.Kinds)
	}
	if more := r.Violations - int64(len(r.First)); more > 0 {
		text += fmt.Sprintf("; the first %d:", len(r.First))
	}
	return text
}

// counts lists numbers by name, the largest first.
func counts[K ~string](m map[K]int64) string {
	names := slices.Collect(maps.Keys(m))
	slices.SortFunc(names, func(a, b K) int {
		if m[a] != m[b] {
			return int(m[b] - m[a])
		}
		return strings.Compare(string(a), string(b))
	})
	var parts []string
	var total int64
	for _, name := range names {
		parts = append(parts, fmt.Sprintf("%d %s", m[name], name))
		total += m[name]
	}
	if len(parts) < 2 {
		return strings.Join(append(parts, "0")[:1], "")
	}
	return fmt.Sprintf("%d: %s", total, strings.Join(parts, ", "))
}
