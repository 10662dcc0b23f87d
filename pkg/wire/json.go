package wire

import (
	"encoding/json"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Whole parses a JSON number that has an integer value. It also accepts forms such as 1.0 and
// 1e2, but only up to 2^53, since a float64 is not exact beyond that.
func Whole(value []byte) (n int64, ok bool) {
	if n, err := strconv.ParseInt(string(value), 10, 64); err == nil {
		return n, true
	}
	var number *float64 // stays nil for null
	if json.Unmarshal(value, &number) != nil || number == nil || *number != math.Trunc(*number) || math.Abs(*number) > 1<<53 {
		return 0, false
	}
	return int64(*number), true
}

// whole is an int64 that encoding/json decodes with Whole.
type whole int64

// UnmarshalJSON implements json.Unmarshaler.
func (w *whole) UnmarshalJSON(value []byte) error {
	n, ok := Whole(value)
	if !ok {
		return strconv.ErrSyntax
	}
	*w = whole(n)
	return nil
}

// HalfPair reports whether a JSON string has an escape for half of a surrogate pair, which is
// not a character. encoding/json would replace each half with U+FFFD, so that different texts
// become equal.
func HalfPair(text []byte) bool {
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			continue
		}
		unit, isUnit := codeUnit(text[i:])
		switch {
		case !isUnit:
			i++ // an escape of one character, perhaps a backslash
		case !utf16.IsSurrogate(unit):
			i += 5
		default:
			low, _ := codeUnit(text[i+6:])
			if utf16.DecodeRune(unit, low) == utf8.RuneError {
				return true
			}
			i += 11
		}
	}
	return false
}

// codeUnit parses an escape like \u00e9 at the start of text.
func codeUnit(text []byte) (unit rune, ok bool) {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	return rune(n), err == nil
}
