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

// peekBytes is how much of a payload must be there to know its type and seq:
// {"type":"MESSAGE","seq":9007199254740991,
const peekBytes = 48

var messageHead = []byte(`{"type":"MESSAGE","seq":`)

var errFrame = errors.New("a frame that no server may send")

// frame is what the scanner shows of a frame. payload is whole for all but messages,
// and for those too where the scanner is told to.
type frame struct {
	opcode  byte
	message bool
	payload []byte
}

// scanner finds frames in what one socket brings, in pieces of any size.
type scanner struct {
	whole bool   // show messages as a whole
	skip  int    // bytes to come of a frame that has been shown
	held  []byte // the beginning of a frame that cannot be shown yet
}

// scan shows each frame that b completes. What it shows is good until see returns.
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

// frames shows the frames of b and answers with what is left: not enough to show one.
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

// header reads a frame's header: how long it is, 0 if it is not there as a whole, and
// the payload's size. Servers neither mask nor, here, split frames.
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

// number reads the decimal number that b begins with, 0 if none.
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

// seqOf finds seq in a frame that is not a message; 0 where it has none.
func seqOf(payload []byte) int64 {
	_, rest, ok := bytes.Cut(payload, []byte(`"seq":`))
	if !ok {
		return 0
	}
	return number(rest)
}
