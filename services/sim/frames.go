package sim

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// frames reads what a gateway writes to one connection at the moment of the write, and
// checks I6: nothing goes to a session whose lease has ended. The gateway does not answer
// for what the network does to it afterwards.
type frames struct {
	w       *world
	upgrade bool // the response to the upgrade has been written
	buf     []byte
	room    string
	session string
}

func newFrames(w *world) *frames { return &frames{w: w} }

// wrote takes what the gateway wrote. The writes to one connection do not overlap.
func (f *frames) wrote(p []byte) {
	f.buf = append(f.buf, p...)
	if !f.upgrade {
		end := bytes.Index(f.buf, []byte("\r\n\r\n"))
		if end < 0 {
			return
		}
		f.upgrade, f.buf = true, f.buf[end+4:]
	}
	for {
		kind, payload, rest, ok := cutFrame(f.buf)
		if !ok {
			return
		}
		f.buf = rest
		if kind == 1 {
			f.text(payload)
		}
	}
}

// cutFrame cuts off the first frame. A server's frames are neither fragmented nor masked.
func cutFrame(b []byte) (kind byte, payload, rest []byte, ok bool) {
	if len(b) < 2 {
		return 0, nil, b, false
	}
	head, n := 2, int(b[1])
	switch {
	case n == 126 && len(b) >= 4:
		head, n = 4, int(binary.BigEndian.Uint16(b[2:]))
	case n == 127 && len(b) >= 10:
		head, n = 10, int(binary.BigEndian.Uint64(b[2:]))
	case n >= 126:
		return 0, nil, b, false
	}
	if len(b) < head+n {
		return 0, nil, b, false
	}
	return b[0] & 0x0f, b[head : head+n], b[head+n:], true
}

func (f *frames) text(payload []byte) {
	var frame wire.ServerFrame
	if err := json.Unmarshal(payload, &frame); err != nil {
		f.w.tell("frame", "%q: %v", payload, err)
		return
	}
	switch frame.Type {
	case wire.TypeJoined:
		f.room, f.session = frame.RoomID, frame.SessionID
	case wire.TypeError, wire.TypePong, wire.TypeDraining:
		return // about the connection, not the room
	}
	if f.session == "" {
		return
	}
	until, held := f.w.truth.leaseEnd(f.room, f.session)
	if until.IsZero() && !held {
		return // the seat was taken over before its lease was ever seen
	}
	if now := time.Now(); !now.Before(until) {
		f.w.tell("I6", "room %s: %s %d went to session %s %v after its lease ended", f.room, frame.Type, frame.Seq, f.session, now.Sub(until))
	}
}
