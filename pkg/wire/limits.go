package wire

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Limits and periods of the contract (docs/protocol.md).
const (
	MaxIDLen            = 64      // characters of a room, session, gateway or request id
	MaxTitleLen         = 100     // characters
	MaxNicknameLen      = 40      // characters
	MaxUserIDLen        = 128     // bytes
	MaxMessageIDLen     = 64      // characters
	MaxCapacity         = 100_000 // seats
	MaxFullPresence     = 1_000   // seats: largest room whose joins and leaves may be logged
	DefaultFullUpTo     = 256     // seats: above this, presence is count by default
	MaxTimeoutSeconds   = 86_400
	DefaultEmptySeconds = 60        // life of a room that nobody has entered yet
	MaxPageSize         = 100       // rooms in a page
	DefaultPageSize     = 20        // rooms in a page
	DefaultFrameBytes   = 16 << 10  // size of a client's frame
	MaxQueuedBytes      = 256 << 10 // bytes waiting to be sent to one session
	HistoryEntries      = 1_000     // entries kept in a room's log
	MaxMalformedFrames  = 10        // the last of these ends the connection

	PermitTTL     = 15 * time.Second
	Lease         = 15 * time.Second
	RenewEvery    = 5 * time.Second
	HistoryAge    = 10 * time.Minute
	MessageIDAge  = 2 * time.Minute // how long a message id is remembered after its last use
	JoinTimeout   = 10 * time.Second
	SendTimeout   = 10 * time.Second // a client that takes no bytes for this long is a slow consumer
	EchoTimeout   = 10 * time.Second // how long a MESSAGE may be neither echoed nor refused
	FloodPatience = 10 * time.Second // how long a client may exceed its rate of messages or frames before 4429
	PingEvery     = 25 * time.Second
	PeerSilence   = 35 * time.Second

	// SystemUser is the sender of messages that the application itself publishes.
	SystemUser = "system"
)

// CheckID accepts room, session, gateway and request ids: 1 to 64 of A-Z a-z 0-9 _ -.
func CheckID(field, s string) error {
	if s == "" {
		return Errorf(BadRequest, "%s is required", field)
	}
	if len(s) > MaxIDLen {
		return Errorf(BadRequest, "%s is longer than %d characters", field, MaxIDLen)
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return Errorf(BadRequest, "%s may hold A-Z, a-z, 0-9, _ and - only", field)
		}
	}
	return nil
}

// CheckText accepts UTF-8 of at most limit characters. It refuses control characters, line
// and paragraph separators, and direction marks.
func CheckText(field, s string, limit int) error {
	if !utf8.ValidString(s) {
		return Errorf(BadRequest, "%s is not UTF-8", field)
	}
	if utf8.RuneCountInString(s) > limit {
		return Errorf(BadRequest, "%s is longer than %d characters", field, limit)
	}
	if strings.ContainsFunc(s, unprintable) {
		return Errorf(BadRequest, "%s holds control characters", field)
	}
	return nil
}

// CheckMessageID accepts any UTF-8 of at most 64 characters. Clients choose these ids for
// themselves, and they are not displayed to anybody.
func CheckMessageID(field, s string) error {
	if !utf8.ValidString(s) {
		return Errorf(BadRequest, "%s is not UTF-8", field)
	}
	if utf8.RuneCountInString(s) > MaxMessageIDLen {
		return Errorf(BadRequest, "%s is longer than %d characters", field, MaxMessageIDLen)
	}
	return nil
}

// unprintable reports whether r is a control character, or one of the separators and
// direction marks that let one name pass for another or break out of its line.
func unprintable(r rune) bool {
	return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' ||
		(r >= '\u202a' && r <= '\u202e') || (r >= '\u2066' && r <= '\u2069')
}

// CheckUserID accepts 1 to 128 bytes of UTF-8, without the characters that CheckText refuses.
// "system" is reserved.
func CheckUserID(s string) error {
	if s == "" {
		return Errorf(BadRequest, "userId is required")
	}
	if s == SystemUser {
		return Errorf(BadRequest, "userId %q is reserved", s)
	}
	if len(s) > MaxUserIDLen {
		return Errorf(BadRequest, "userId is longer than %d bytes", MaxUserIDLen)
	}
	return CheckText("userId", s, MaxUserIDLen)
}

// CheckRange accepts n if low ≤ n ≤ high.
func CheckRange(field string, n, low, high int) error {
	if n < low || n > high {
		return Errorf(BadRequest, "%s is %d, outside %d to %d", field, n, low, high)
	}
	return nil
}

// A permit is "<roomId>.<secret>", so the permit alone says which room it is for.

// JoinPermit builds a permit from a room's id and a secret.
func JoinPermit(roomID, secret string) string { return roomID + "." + secret }

// SplitPermit returns the room's id and the secret of a permit. It returns a PERMIT_EXPIRED
// error if the text cannot be a permit.
func SplitPermit(permit string) (roomID, secret string, err error) {
	roomID, secret, ok := strings.Cut(permit, ".")
	if !ok || CheckID("room", roomID) != nil || CheckID("secret", secret) != nil {
		return "", "", Errorf(PermitExpired, "this is not a permit")
	}
	return roomID, secret, nil
}

// FormatTime formats t as frames and HTTP responses do: RFC 3339 in UTC with milliseconds.
func FormatTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
