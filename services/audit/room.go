package audit

import (
	"bytes"
	"cmp"
	"hash/maphash"
	"maps"
	"slices"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// Life is one life of a room: from its creation to its deletion.
type Life struct {
	RoomID   string
	Epoch    string
	Capacity int  // seats
	Counted  bool // presence is count: joins and leaves are not in the log
	Complete bool // the whole log from seq 1 is observed: a hole is a violation
}

// Room puts the log of one life of a room together from what observers received, and
// checks it. It keeps about 200 bytes for each entry, without the body.
type Room struct {
	life    Life
	seed    maphash.Seed
	entries map[int64]entry
	rosters map[int64][]roster // rosters of JOINED frames, by seq
	revoked map[string]string  // message id → why it must not be in the log
}

// entry is what the checks need of one log entry.
type entry struct {
	kind     string // type of the frame
	at       time.Time
	user     string
	reason   string
	id       string
	occupied int
	sum      uint64 // hash of nickname and body, which are not kept
}

// roster is who was in the room as of a seq.
type roster struct {
	occupied int
	members  []string // sorted; nil where presence is count
}

// NewRoom returns a checker of one life of a room.
func NewRoom(life Life) *Room {
	return &Room{
		life: life, seed: maphash.MakeSeed(),
		entries: make(map[int64]entry), rosters: make(map[int64][]roster), revoked: make(map[string]string),
	}
}

// Saw takes a frame that an observer received: MESSAGE, MEMBER_JOINED, MEMBER_LEFT,
// JOINED or OCCUPANCY. Others are ignored. It returns what is wrong with the frame itself,
// or because another observer received something else for its seq.
func (r *Room) Saw(f wire.ServerFrame) []Violation {
	switch f.Type {
	case wire.TypeJoined:
		return r.sawJoined(f)
	case wire.TypeMessage, wire.TypeMemberJoined, wire.TypeMemberLeft:
		return r.sawEntry(f)
	case wire.TypeOccupancy:
		if f.Occupied > r.life.Capacity {
			return r.found(OverCapacity, 0, "OCCUPANCY tells %d of %d", f.Occupied, r.life.Capacity)
		}
	}
	return nil
}

// Revoke says that the message with that id must not be in the log, for instance because
// its session had been replaced. why becomes part of the violation.
func (r *Room) Revoke(id, why string) { r.revoked[id] = why }

func (r *Room) sawEntry(f wire.ServerFrame) []Violation {
	who := f.Member
	if f.Type == wire.TypeMessage {
		who = f.From
	}
	if f.Seq < 1 || who == nil || f.Time.IsZero() {
		return r.found(WrongFrame, f.Seq, "%s without seq, time or member", f.Type)
	}
	e := entry{
		kind: f.Type, at: f.Time, user: who.UserID, reason: f.Reason, id: f.ID, occupied: f.Occupied,
		sum: maphash.String(r.seed, who.Nickname) ^ maphash.Bytes(r.seed, bytes.TrimSpace(f.Body)),
	}
	known, ok := r.entries[f.Seq]
	if !ok {
		r.entries[f.Seq] = e
		return r.wrongEntry(f)
	}
	if !known.at.Equal(e.at) {
		return r.found(SeqConflict, f.Seq, "%s of %s at %s, and %s of %s at %s to another",
			known.kind, known.user, wire.FormatTime(known.at), e.kind, e.user, wire.FormatTime(e.at))
	}
	e.at = known.at
	if known != e {
		return r.found(SeqConflict, f.Seq, "%s of %s, and %s of %s to another observer", known.kind, known.user, e.kind, e.user)
	}
	return nil
}

// wrongEntry checks an entry by itself.
func (r *Room) wrongEntry(f wire.ServerFrame) []Violation {
	if f.Type == wire.TypeMessage {
		if f.Body == nil {
			return r.found(WrongFrame, f.Seq, "MESSAGE without body")
		}
		return nil
	}
	if r.life.Counted {
		return r.found(WrongFrame, f.Seq, "%s where presence is count", f.Type)
	}
	if f.Type == wire.TypeMemberLeft {
		switch f.Reason {
		case wire.ReasonLeft, wire.ReasonLost, wire.ReasonRemoved:
		default:
			return r.found(WrongFrame, f.Seq, "MEMBER_LEFT with reason %q", f.Reason)
		}
	}
	return nil
}

func (r *Room) sawJoined(f wire.ServerFrame) []Violation {
	var vs []Violation
	if f.Capacity != r.life.Capacity {
		vs = append(vs, r.found(WrongFrame, f.Seq, "JOINED tells capacity %d, the room has %d", f.Capacity, r.life.Capacity)...)
	}
	if f.Occupied > r.life.Capacity {
		vs = append(vs, r.found(OverCapacity, f.Seq, "JOINED tells %d occupied of %d", f.Occupied, r.life.Capacity)...)
	}
	told := roster{occupied: f.Occupied}
	if r.life.Counted {
		if len(f.Members) > 0 {
			vs = append(vs, r.found(WrongFrame, f.Seq, "JOINED has members where presence is count")...)
		}
		return vs
	}
	for _, m := range f.Members {
		told.members = append(told.members, m.UserID)
	}
	slices.Sort(told.members)
	switch {
	case len(slices.Compact(slices.Clone(told.members))) < len(told.members):
		vs = append(vs, r.found(TwoSeats, f.Seq, "JOINED lists a user twice: %v", told.members)...)
	case !slices.Contains(told.members, f.UserID):
		vs = append(vs, r.found(WrongRoster, f.Seq, "JOINED of %s does not list them", f.UserID)...)
	case len(told.members) != f.Occupied:
		vs = append(vs, r.found(Miscounted, f.Seq, "JOINED lists %d members and tells %d occupied", len(told.members), f.Occupied)...)
	}
	same := func(o roster) bool { return o.occupied == told.occupied && slices.Equal(o.members, told.members) }
	if !slices.ContainsFunc(r.rosters[f.Seq], same) {
		r.rosters[f.Seq] = append(r.rosters[f.Seq], told)
	}
	return vs
}

// Audit replays what was observed in the order of seq. It returns the violations that it
// finds, without those that Saw has returned already.
func (r *Room) Audit() []Violation {
	seqs := slices.Collect(maps.Keys(r.entries))
	for seq := range r.rosters {
		if _, ok := r.entries[seq]; !ok {
			seqs = append(seqs, seq)
		}
	}
	slices.Sort(seqs)
	f := newFold(r)
	for _, seq := range seqs {
		if e, ok := r.entries[seq]; ok {
			f.entry(seq, e)
		}
		for _, told := range r.rosters[seq] {
			f.roster(seq, told)
		}
	}
	f.repeated()
	slices.SortStableFunc(f.found, func(a, b Violation) int { return cmp.Compare(a.Seq, b.Seq) })
	return f.found
}

// Entries returns how many entries of the log were observed.
func (r *Room) Entries() int { return len(r.entries) }

func (r *Room) found(kind Kind, seq int64, format string, args ...any) []Violation {
	return []Violation{r.violation(kind, seq, format, args...)}
}
