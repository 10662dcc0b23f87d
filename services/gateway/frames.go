package gateway

import (
	"encoding/binary"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// Opcodes of RFC 6455, with the final bit set.
const (
	opClose   = 0x8
	textFrame = 0x81
	closeBits = 0x88
)

// pingFrame is a ping without payload.
var pingFrame = []byte{0x89, 0x00}

// pongHeader is the beginning of a peer's answer to pingFrame. The mask follows it.
const pongHeader = "\x8a\x80"

// appendFrame appends a text frame.
func appendFrame(dst, payload []byte) []byte {
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, textFrame, byte(n))
	case n < 1<<16:
		dst = append(dst, textFrame, 126, byte(n>>8), byte(n))
	default:
		dst = append(dst, textFrame, 127)
		dst = binary.BigEndian.AppendUint64(dst, uint64(n))
	}
	return append(dst, payload...)
}

// closeFrame is a close frame with the code's name as its reason.
func closeFrame(code wire.CloseCode) []byte {
	reason := code.String()
	if code == wire.CloseNormal {
		reason = ""
	}
	f := append([]byte{closeBits, byte(2 + len(reason))}, byte(code>>8), byte(code))
	return append(f, reason...)
}

// frameLen returns the length of the first frame in b, which holds whole frames of ours.
func frameLen(b []byte) int {
	switch n := int(b[1]); n {
	case 126:
		return 4 + int(binary.BigEndian.Uint16(b[2:]))
	case 127:
		return 10 + int(binary.BigEndian.Uint64(b[2:]))
	default:
		return 2 + n
	}
}

// framesUpTo returns the length of as many whole frames in b as fit in limit, at least one.
func framesUpTo(b []byte, limit int) int {
	n := frameLen(b)
	for n < len(b) {
		next := frameLen(b[n:])
		if n+next > limit {
			break
		}
		n += next
	}
	return n
}

// endOfFrame returns where the frame in b ends that byte n belongs to.
func endOfFrame(b []byte, n int) int {
	end := 0
	for end <= n {
		end += frameLen(b[end:])
	}
	return end
}
