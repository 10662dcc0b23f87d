package pace

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"
)

// member is one connection. The lock of its reader guards the fields that change as frames
// are read.
type member struct {
	crowd    *crowd
	index    int
	room     *room
	target   int // index of its base URL
	reader   *reader
	identity string
	sock     *socket

	scan     scanner
	last     int64 // seq of the last entry
	messages int64 // received
	holes    int64 // seqs that were skipped
	double   int64 // seqs that came again
	echoes   int   // in a Burst: own messages in what is being read, which it answers
	read     time.Duration
	gone     error // why nothing comes any more
}

func (m *member) attach(s *socket) { m.sock = s }

// take is called with what was read from the socket.
func (m *member) take(b []byte) error {
	before := m.messages
	if m.scan.whole {
		m.read = now()
	}
	err := m.scan.scan(b, m.see)
	m.crowd.bytes.Add(int64(len(b)))
	if n := m.messages - before; n > 0 {
		m.crowd.delivered.Add(n)
	}
	if err == nil && m.echoes > 0 {
		err = m.answer()
	}
	return err
}

// broke is called when no more will come.
func (m *member) broke(err error) {
	if m.gone == nil {
		m.gone = err
	}
}

func (m *member) see(f frame) error {
	switch {
	case f.message:
		m.messages++
		m.follow(number(f.payload[len(messageHead):]))
		if m.scan.whole {
			m.stamped(f.payload)
		}
	case f.opcode == opPing:
		return m.sock.write(clientFrame(opPong, f.payload))
	case f.opcode == opClose:
		if len(f.payload) >= 2 {
			return fmt.Errorf("closed with %d %s", binary.BigEndian.Uint16(f.payload), f.payload[2:])
		}
		return fmt.Errorf("closed without a code")
	case f.opcode == opText:
		if bytes.HasPrefix(f.payload, []byte(`{"type":"ERROR"`)) {
			m.room.refused.Add(1)
		}
		if seq := seqOf(f.payload); seq > 0 {
			m.follow(seq)
		}
	}
	return nil
}

// follow checks that the log comes without holes, and each entry once.
func (m *member) follow(seq int64) {
	if seq <= m.last {
		m.double++
		return
	}
	m.holes += seq - m.last - 1
	m.last = seq
}

// stamped records the latency of a message, and counts the member's own ones.
func (m *member) stamped(payload []byte) {
	due, who, ok := stampOf(payload)
	if !ok {
		return
	}
	c := m.crowd
	if due >= c.from && due < c.until {
		c.latencies.add(m.read - due)
	}
	if who == m.index && c.cfg.Shape.Kind == Burst && m.read < c.until {
		m.echoes++
	}
}

// answer sends as many messages as came back to this member, in one write.
func (m *member) answer() error {
	n := m.echoes
	m.echoes = 0
	return m.post(&m.reader.frames, n, now())
}

// post sends n messages that were due at due. It uses buf to build them.
func (m *member) post(buf *[]byte, n int, due time.Duration) error {
	frames := (*buf)[:0]
	for range n {
		at := len(frames)
		frames = append(frames, emptyMessage...)
		setStamp(frames[at:], due, m.index)
	}
	*buf = frames
	m.room.sent.Add(int64(n))
	return m.sock.write(frames)
}

var emptyMessage = messageFrame()
