package audit

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// fold is what is known of a room's seats as its log is replayed. After a hole little is
// known. The entries that follow add to it bit by bit, and a roster makes it complete.
type fold struct {
	room  *Room
	found []Violation

	last   int64 // seq up to which the log was replayed
	lastAt time.Time
	seated map[string]bool // users who are known to be there, or known not to be
	whole  bool            // users who are not in seated are not there
	count  int             // occupied as of last; -1 if it is not known
}

func newFold(r *Room) *fold {
	return &fold{room: r, seated: make(map[string]bool), whole: !r.life.Counted, count: 0}
}

func (f *fold) tell(kind Kind, seq int64, format string, args ...any) {
	f.found = append(f.found, f.room.violation(kind, seq, format, args...))
}

func (r *Room) violation(kind Kind, seq int64, format string, args ...any) Violation {
	return Violation{
		Kind: kind, RoomID: r.life.RoomID, Epoch: r.life.Epoch, Seq: seq, Count: 1, Detail: fmt.Sprintf(format, args...),
	}
}

// entry replays one entry.
func (f *fold) entry(seq int64, e entry) {
	f.reach(seq - 1)
	f.last = seq
	if e.at.Before(f.lastAt) {
		f.tell(TimeBackwards, seq, "%s stands behind %s", wire.FormatTime(e.at), wire.FormatTime(f.lastAt))
	}
	f.lastAt = e.at
	if f.room.life.Counted {
		return // nothing in the log tells who is there
	}
	switch e.kind {
	case wire.TypeMemberJoined:
		f.joined(seq, e)
	case wire.TypeMemberLeft:
		f.left(seq, e)
	case wire.TypeMessage:
		if e.user == wire.SystemUser {
			return
		}
		if there, known := f.there(e.user); known && !there {
			f.tell(StrangerSpoke, seq, "%s is not in the room", e.user)
			return
		}
		f.seated[e.user] = true
	}
}

// reach goes on to seq, past entries that nobody saw.
func (f *fold) reach(seq int64) {
	if seq <= f.last {
		return
	}
	if f.room.life.Complete {
		v := f.room.violation(SeqMissing, f.last+1, "the log has nothing from %d to %d", f.last+1, seq)
		v.Count = seq - f.last
		f.found = append(f.found, v)
	}
	f.last = seq
	f.forget()
}

func (f *fold) forget() {
	clear(f.seated)
	f.whole, f.count = false, -1
}

// there reports whether a user is in the room, if that is known.
func (f *fold) there(user string) (there, known bool) {
	there, known = f.seated[user]
	return there, known || f.whole
}

func (f *fold) joined(seq int64, e entry) {
	if there, _ := f.there(e.user); there {
		f.tell(TwoSeats, seq, "MEMBER_JOINED of %s, who is in the room", e.user)
		f.seat(seq, e, 0, true)
		return
	}
	f.seat(seq, e, +1, true)
}

func (f *fold) left(seq int64, e entry) {
	if there, known := f.there(e.user); known && !there {
		f.tell(NotThere, seq, "MEMBER_LEFT of %s, who is not in the room", e.user)
		f.seat(seq, e, 0, false)
		return
	}
	f.seat(seq, e, -1, false)
}

// seat counts a change and compares the result with the frame. If they differ, the fold
// goes on with the frame's count, so that one error is reported once.
func (f *fold) seat(seq int64, e entry, change int, there bool) {
	f.seated[e.user] = there
	if f.count >= 0 {
		f.count += change
		if f.count > f.room.life.Capacity {
			f.tell(OverCapacity, seq, "%d seats of %d are taken as %s joins", f.count, f.room.life.Capacity, e.user)
		}
		if f.count != e.occupied {
			f.tell(Miscounted, seq, "%s tells %d occupied, the log makes it %d", e.kind, e.occupied, f.count)
			f.whole = false
		}
	}
	if e.occupied > f.room.life.Capacity && f.count != e.occupied {
		f.tell(OverCapacity, seq, "%s tells %d occupied of %d", e.kind, e.occupied, f.room.life.Capacity)
	}
	f.count = e.occupied
}

// roster compares the roster of a JOINED with the fold, or learns from it.
func (f *fold) roster(seq int64, told roster) {
	f.reach(seq)
	if f.count >= 0 && told.occupied != f.count {
		f.tell(Miscounted, seq, "JOINED tells %d occupied, the log makes it %d", told.occupied, f.count)
	}
	var wrong []string
	for _, user := range told.members {
		if there, known := f.there(user); known && !there {
			wrong = append(wrong, "+"+user)
		}
	}
	for user, there := range f.seated {
		if there && !slices.Contains(told.members, user) {
			wrong = append(wrong, "-"+user)
		}
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		f.tell(WrongRoster, seq, "the roster of JOINED differs from the log: %v", wrong)
	}
	if f.whole {
		return // if they differ, the log counts
	}
	f.forget()
	for _, user := range told.members {
		f.seated[user] = true
	}
	f.whole, f.count = true, told.occupied
}

// repeated finds messages that are in the log twice, and messages that must not be in it.
func (f *fold) repeated() {
	type key struct{ user, id string }
	first := make(map[key]int64)
	entries := f.room.entries
	for _, seq := range slices.SortedFunc(maps.Keys(entries), cmp.Compare) {
		e := entries[seq]
		if e.kind != wire.TypeMessage || e.id == "" {
			continue
		}
		if why, ok := f.room.revoked[e.id]; ok {
			f.tell(StrangerSpoke, seq, "message %s of %s: %s", e.id, e.user, why)
		}
		k := key{e.user, e.id}
		if before, ok := first[k]; ok && e.at.Sub(entries[before].at) < wire.MessageIDAge {
			f.tell(MessageTwice, seq, "message %s of %s stands at %d already", e.id, e.user, before)
		}
		first[k] = seq
	}
}
