// Package audit judges what was observed of a running system against the rules of
// docs/protocol.md, without looking inside it. It does no I/O.
//
//	Room    one life of a room: its log, put together from what any number of
//	        observers received, and replayed to find who was in the room (I1, I2, I4, I6)
//	Member  what one member received over its connections: the log without a hole,
//	        and acknowledgements of its own messages (I7)
//	Seats   seats that were certainly taken, counted without any log (I1, I4)
//
// Observations may be partial. If nobody saw an entry, a checker knows less, and reports
// only what it is sure of. So every reported violation is real, and how much the absence
// of violations means depends on how much was observed.
//
// The methods are not safe for concurrent use.
package audit

import "fmt"

// Rule names what was broken: I1 to I8 of docs/protocol.md, section 1, or one of the
// promises that have no number there.
type Rule string

// The rules.
const (
	I1     Rule = "I1"     // never more seats than the capacity
	I2     Rule = "I2"     // one seat a user
	I3     Rule = "I3"     // a permit is confirmed once, and not after it lapsed
	I4     Rule = "I4"     // a seat is given up only in the name of its holder
	I6     Rule = "I6"     // a session without a seat neither sends nor receives
	I7     Rule = "I7"     // the same log for all, and no hole without a GAP
	I8     Rule = "I8"     // seats come back
	Roster Rule = "ROSTER" // members and occupied are the fold of the log
	Once   Rule = "ONCE"   // a message is delivered once, and its sender gets an answer
	Time   Rule = "TIME"   // the log's times do not go backwards
	Frame  Rule = "FRAME"  // frames are as the contract says
)

// Kind is one way to break a rule.
type Kind string

// The kinds of violations.
const (
	OverCapacity   Kind = "over capacity"
	TwoSeats       Kind = "joined twice"      // MEMBER_JOINED of a user who is there
	PermitReused   Kind = "permit used twice" // a used permit was confirmed
	PermitLapsed   Kind = "lapsed permit confirmed"
	NotThere       Kind = "left without being there" // MEMBER_LEFT of a user who was not there
	SeatVanished   Kind = "seat vanished"            // fewer seats counted than certainly taken
	StrangerSpoke  Kind = "message of who holds no seat"
	ReplacedLives  Kind = "replaced session lives on"
	SeqMissing     Kind = "seq missing" // a hole without a GAP
	SeqDouble      Kind = "seq double or out of order"
	SeqConflict    Kind = "one seq, two entries" // observers disagree
	SetBack        Kind = "log set back"         // seqs that were used are used again
	FalseGap       Kind = "GAP that is not true"
	FalseRecovered Kind = "recovered is not true"
	SeatKept       Kind = "seat did not come back"
	Miscounted     Kind = "occupied is wrong"       // against the fold of the log
	WrongRoster    Kind = "members are wrong"       // against the fold of the log
	EchoMissing    Kind = "message unanswered"      // neither echoed nor refused
	MessageTwice   Kind = "message delivered twice" // one id at two seqs
	TimeBackwards  Kind = "time goes backwards"
	WrongFrame     Kind = "frame that breaks the contract"
)

var rules = map[Kind]Rule{
	OverCapacity: I1, TwoSeats: I2, PermitReused: I3, PermitLapsed: I3, NotThere: I4, SeatVanished: I4,
	StrangerSpoke: I6, ReplacedLives: I6, SeqMissing: I7, SeqDouble: I7, SeqConflict: I7, SetBack: I7,
	FalseGap: I7, FalseRecovered: I7, SeatKept: I8, Miscounted: Roster, WrongRoster: Roster,
	EchoMissing: Once, MessageTwice: Once, TimeBackwards: Time, WrongFrame: Frame,
}

// Rule returns the rule that a violation of this kind breaks.
func (k Kind) Rule() Rule { return rules[k] }

// Violation is one breakage of a rule.
type Violation struct {
	Kind   Kind   `json:"kind"`
	RoomID string `json:"roomId"`
	Epoch  string `json:"epoch,omitempty"` // empty if it is not about one life of the room
	Seq    int64  `json:"seq,omitempty"`   // position in the log; 0 if it is not about an entry
	Count  int64  `json:"count"`           // how many seqs or seats it is about, 1 or more
	Detail string `json:"detail"`
}

// String describes the violation in one line.
func (v Violation) String() string {
	where := "room " + v.RoomID
	if v.Epoch != "" {
		where += " epoch " + v.Epoch
	}
	if v.Seq != 0 {
		where += fmt.Sprintf(" seq %d", v.Seq)
	}
	return fmt.Sprintf("%s %s: %s: %s", v.Kind.Rule(), v.Kind, where, v.Detail)
}
