package wire

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Limits and periods of the contract.
const (
	MaxIDLen            = 64      // characters of a room, session, gateway or request id
	MaxTitleLen         = 100     // characters
	MaxNicknameLen      = 40      // characters
	MaxUserIDLen        = 128     // bytes
	MaxMessageIDLen     = 64      // characters
	MaxCapacity         = 100_000 // seats
	MaxFullPresence     = 1_000   // seats of a room whose joins and leaves are logged
	DefaultFullUpTo     = 256     // seats: above, presence is count unless chosen
	MaxTimeoutSeconds   = 86_400
	DefaultEmptySeconds = 60        // of a room that nobody has entered yet
	MaxPageSize         = 100       // rooms
	DefaultPageSize     = 20        // rooms
	DefaultFrameBytes   = 16 << 10  // of a client's frame
	MaxQueuedBytes      = 256 << 10 // waiting to be sent to one session
	HistoryEntries      = 1_000     // of a room's log
	MaxMalformedFrames  = 10        // the last of which ends the connection

	PermitTTL     = 15 * time.Second
	Lease         = 15 * time.Second
	RenewEvery    = 5 * time.Second
	HistoryAge    = 10 * time.Minute
	MessageIDAge  = 2 * time.Minute // how long a message id is remembered
	JoinTimeout   = 10 * time.Second
	SendTimeout   = 10 * time.Second // nothing taken for so long: slow consumer
	EchoTimeout   = 10 * time.Second // a MESSAGE neither echoed nor refused
	FloodPatience = 10 * time.Second // of messages or frames above their rate before 4429
	PingEvery     = 25 * time.Second
	PeerSilence   = 35 * time.Second

	// SystemUser is the sender of what the application itself publishes.
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

// CheckText accepts UTF-8 of at most limit characters without control characters, line
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

// CheckMessageID accepts any UTF-8 of at most 64 characters: ids are the clients' own,
// and nobody is shown them.
func CheckMessageID(field, s string) error {
	if !utf8.ValidString(s) {
		return Errorf(BadRequest, "%s is not UTF-8", field)
	}
	if utf8.RuneCountInString(s) > MaxMessageIDLen {
		return Errorf(BadRequest, "%s is longer than %d characters", field, MaxMessageIDLen)
	}
	return nil
}

// unprintable finds control characters and the separators and direction marks
// that let one name pass for another or break out of its line.
func unprintable(r rune) bool {
	return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' ||
		(r >= '\u202a' && r <= '\u202e') || (r >= '\u2066' && r <= '\u2069')
}

// CheckUserID accepts 1 to 128 bytes of UTF-8 without what CheckText refuses, except
// "system".
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

// CheckRange accepts low ≤ n ≤ high.
func CheckRange(field string, n, low, high int) error {
	if n < low || n > high {
		return Errorf(BadRequest, "%s is %d, outside %d to %d", field, n, low, high)
	}
	return nil
}

// Permits are "<roomId>.<secret>", so that a permit alone says where to ask for it.

// JoinPermit makes a permit of a room's id and a secret.
func JoinPermit(roomID, secret string) string { return roomID + "." + secret }

// SplitPermit answers with the room's id and the secret in a permit, or PERMIT_EXPIRED
// when it cannot be one.
func SplitPermit(permit string) (roomID, secret string, err error) {
	roomID, secret, ok := strings.Cut(permit, ".")
	if !ok || CheckID("room", roomID) != nil || CheckID("secret", secret) != nil {
		return "", "", Errorf(PermitExpired, "this is not a permit")
	}
	return roomID, secret, nil
}

// FormatTime writes t as frames and HTTP answers do: RFC 3339 in UTC, milliseconds.
func FormatTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
