package pace

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// Opcodes of RFC 6455.
const (
	opText  = 0x1
	opClose = 0x8
	opPing  = 0x9
	opPong  = 0xA
)

// peekBytes is how much of a payload is needed to know its type and seq:
// {"type":"MESSAGE","seq":9007199254740991,
const peekBytes = 48

var messageHead = []byte(`{"type":"MESSAGE","seq":`)

var errFrame = errors.New("a frame that no server may send")

// frame is what the scanner shows of a frame. payload is complete, but for messages only if
// the scanner is whole.
type frame struct {
	opcode  byte
	message bool
	payload []byte
}

// scanner finds the frames in the bytes of one socket, which come in pieces of any size.
type scanner struct {
	whole bool   // show complete messages
	skip  int    // bytes still to come of a frame that has been shown
	held  []byte // the beginning of a frame that cannot be shown yet
}

// scan calls see with each frame that can be shown once b has come. The frame is valid until
// see returns.
func (s *scanner) scan(b []byte, see func(frame) error) error {
	if s.skip > 0 {
		n := min(s.skip, len(b))
		s.skip -= n
		b = b[n:]
	}
	if len(s.held) > 0 {
		s.held = append(s.held, b...)
		b = s.held
	}
	rest, err := s.frames(b, see)
	if err != nil {
		return err
	}
	if len(rest) == 0 {
		s.held = s.held[:0]
		return nil
	}
	s.held = append(s.held[:0], rest...) // rest may lie in held itself: append moves it down
	return nil
}

// frames calls see with the frames in b, and returns the rest, which is not enough to show
// a frame.
func (s *scanner) frames(b []byte, see func(frame) error) ([]byte, error) {
	for len(b) >= 2 {
		head, size, err := header(b)
		if err != nil {
			return nil, err
		}
		if head == 0 || len(b) < head+min(size, peekBytes) {
			return b, nil
		}
		end := min(head+size, len(b))
		f := frame{opcode: b[0] & 0xf, payload: b[head:end]}
		f.message = f.opcode == opText && bytes.HasPrefix(f.payload, messageHead)
		if end < head+size && (s.whole || !f.message) {
			return b, nil
		}
		if err := see(f); err != nil {
			return nil, err
		}
		s.skip = head + size - end
		b = b[end:]
	}
	return b, nil
}

// header parses a frame's header. It returns the length of the header, 0 if that is not
// complete, and the size of the payload. Servers must not mask frames, and ours do not
// fragment messages.
func header(b []byte) (head, size int, err error) {
	if b[0]&0x80 == 0 || b[1]&0x80 != 0 {
		return 0, 0, errFrame
	}
	switch n := int(b[1]); {
	case n < 126:
		return 2, n, nil
	case n == 126 && len(b) >= 4:
		return 4, int(binary.BigEndian.Uint16(b[2:])), nil
	case n == 127 && len(b) >= 10:
		size := binary.BigEndian.Uint64(b[2:])
		if size > 1<<30 {
			return 0, 0, errFrame
		}
		return 10, int(size), nil
	}
	return 0, 0, nil
}

// number returns the decimal number that b begins with, or 0.
func number(b []byte) int64 {
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + int64(c-'0')
	}
	return n
}

// seqOf returns the seq of a frame that is not a message, or 0 if it has none.
func seqOf(payload []byte) int64 {
	_, rest, ok := bytes.Cut(payload, []byte(`"seq":`))
	if !ok {
		return 0
	}
	return number(rest)
}
