package pace

import (
	"bytes"
	"encoding/binary"
	"time"
)

// A message's text has 128 bytes: @, when it was due in nanoseconds (16 digits), a
// colon, the index of its sender (6 digits), and padding.
const (
	textBytes   = 128
	dueDigits   = 16
	whoDigits   = 6
	stampBytes  = 1 + dueDigits + 1 + whoDigits
	textFromEnd = textBytes + len(`"}`)
)

var textMark = []byte(`"body":"@`)

// messageFrame makes the client's frame of a message, which setStamp completes.
func messageFrame() []byte {
	text := bytes.Repeat([]byte{'x'}, textBytes)
	copy(text, "@0000000000000000:000000")
	return clientFrame(opText, []byte(`{"type":"MESSAGE","body":"`+string(text)+`"}`))
}

// clientFrame masks with 0, which is allowed: it costs nothing here, and a server as much as
// any other mask.
func clientFrame(opcode byte, payload []byte) []byte {
	f := []byte{0x80 | opcode}
	if n := len(payload); n < 126 {
		f = append(f, 0x80|byte(n))
	} else {
		f = append(f, 0x80|126)
		f = binary.BigEndian.AppendUint16(f, uint16(n))
	}
	f = append(f, 0, 0, 0, 0)
	return append(f, payload...)
}

// setStamp writes the stamp into a frame of messageFrame.
func setStamp(frame []byte, due time.Duration, who int) {
	text := frame[len(frame)-textFromEnd:]
	digits(text[1:1+dueDigits], int64(due))
	digits(text[2+dueDigits:stampBytes], int64(who))
}

func digits(b []byte, n int64) {
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
}

// stampOf reads the stamp from the payload of a MESSAGE.
func stampOf(payload []byte) (due time.Duration, who int, ok bool) {
	at := len(payload) - textFromEnd
	if at < 0 || payload[at] != '@' {
		// The body is the last field today. If it is elsewhere one day, this finds it.
		i := bytes.Index(payload, textMark)
		if i < 0 {
			return 0, 0, false
		}
		at = i + len(textMark) - 1
	}
	text := payload[at:]
	if len(text) < stampBytes {
		return 0, 0, false
	}
	return time.Duration(number(text[1 : 1+dueDigits])), int(number(text[2+dueDigits : stampBytes])), true
}
