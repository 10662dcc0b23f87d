// Package wire defines what passes between a client and a gateway: frames, limits, and error
// and close codes.
//
// A client opens a WebSocket and joins one room. Then both sides send text frames. Each frame
// is one JSON object, and its "type" says what it is:
//
//	client → server   JOIN  MESSAGE  LEAVE  PING
//	server → client   JOINED  MESSAGE  MEMBER_JOINED  MEMBER_LEFT  OCCUPANCY
//	                  GAP  ERROR  DRAINING  PONG
//
// A client's frame has at most 16 KiB. The server's MESSAGE, MEMBER_JOINED and MEMBER_LEFT
// frames are entries of the room's log: each carries a seq, which is the same for every
// member, and the seqs have no hole. docs/protocol.md is the whole contract.
package wire

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// The frame types.
const (
	TypeJoin         = "JOIN"
	TypeMessage      = "MESSAGE"
	TypeLeave        = "LEAVE"
	TypePing         = "PING"
	TypeJoined       = "JOINED"
	TypeMemberJoined = "MEMBER_JOINED"
	TypeMemberLeft   = "MEMBER_LEFT"
	TypeOccupancy    = "OCCUPANCY"
	TypeGap          = "GAP"
	TypeError        = "ERROR"
	TypeDraining     = "DRAINING"
	TypePong         = "PONG"
)

// Reasons of MEMBER_LEFT.
const (
	ReasonLeft    = "LEFT"    // the user left
	ReasonLost    = "LOST"    // the connection was lost and the lease ended
	ReasonRemoved = "REMOVED" // taken out of the room
)

// Member is a user in a room.
type Member struct {
	UserID   string `json:"userId"`
	Nickname string `json:"nickname,omitempty"`
}

// Position is a place in the log of a room. Epoch identifies the room among all the rooms
// that have had its id.
type Position struct {
	Epoch string `json:"epoch"`
	Seq   int64  `json:"seq"`
}

// ClientFrame is any frame that a client sends. Type says which fields are used.
type ClientFrame struct {
	Type     string          `json:"type"`
	RoomID   string          `json:"roomId,omitempty"`
	Permit   string          `json:"permit,omitempty"`
	Identity string          `json:"identity,omitempty"`
	Nickname string          `json:"nickname,omitempty"`
	After    *Position       `json:"after,omitempty"`
	ID       string          `json:"id,omitempty"`
	Body     json.RawMessage `json:"body,omitempty"`
}

// ErrNotUTF8 is returned by ParseClientFrame for text that is not UTF-8: the one malformed
// frame that ends a connection at once (1007).
var ErrNotUTF8 = errors.New("text is not UTF-8")

// ParseClientFrame decodes a frame and checks what can be checked without knowing the room.
// It returns ErrNotUTF8 or a BAD_REQUEST Error. On error, f.ID is still set if the id could
// be read, so that the ERROR frame can name it. Fields that the type does not have are
// ignored, whatever they hold, and so are names with different capitalization. f.Body refers
// to data.
func ParseClientFrame(data []byte, f *ClientFrame) error {
	*f = ClientFrame{}
	if !utf8.Valid(data) {
		return ErrNotUTF8
	}
	trimmed := bytes.TrimLeft(data, " \t\r\n")
	if len(trimmed) == 0 || trimmed[0] != '{' {
		return Errorf(BadRequest, "a frame is one JSON object")
	}
	var frame struct {
		Type string          `json:"type"`
		ID   string          `json:"id"`
		Body json.RawMessage `json:"body"`
	}
	err := json.Unmarshal(data, &frame)
	_, wrongType := errors.AsType[*json.UnmarshalTypeError](err)
	if wrongType || err == nil && (frame.Type == TypeJoin || misspelt(data) || strings.ContainsRune(frame.ID, utf8.RuneError)) {
		return f.parseByName(data)
	}
	if err != nil {
		return Errorf(BadRequest, "a frame is one JSON object")
	}
	f.Type, f.ID, f.Body = frame.Type, frame.ID, frame.Body
	return f.check()
}

// misspelt reports whether an object may have a name that differs from "type", "id" or "body"
// only in case or by escapes. encoding/json ignores case, and would take such a name for the
// field.
func misspelt(object []byte) bool {
	depth := 0
	for i := 0; i < len(object); i++ {
		switch object[i] {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case '"':
			start := i + 1
			for i++; object[i] != '"'; i++ {
				if object[i] == '\\' {
					i++
				}
			}
			if depth != 1 || !bytes.HasPrefix(bytes.TrimLeft(object[i+1:], " \t\r\n"), []byte(":")) {
				continue
			}
			switch name := object[start:i]; string(name) {
			case "type", "id", "body":
			default:
				if bytes.IndexByte(name, '\\') >= 0 || bytes.EqualFold(name, []byte("type")) ||
					bytes.EqualFold(name, []byte("id")) || bytes.EqualFold(name, []byte("body")) {
					return true
				}
			}
		}
	}
	return false
}

// parseByName decodes a frame by the exact names of its fields. It is slower than decoding
// into a struct.
func (f *ClientFrame) parseByName(data []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return Errorf(BadRequest, "a frame is one JSON object")
	}
	f.Body = fields["body"]
	wrongID := read(fields, "id", &f.ID)
	if err := read(fields, "type", &f.Type); err != nil {
		return err
	}
	if f.Type == TypeJoin {
		var after map[string]json.RawMessage
		err := cmp.Or(
			read(fields, "roomId", &f.RoomID), read(fields, "permit", &f.Permit), read(fields, "identity", &f.Identity),
			read(fields, "nickname", &f.Nickname), read(fields, "after", &after),
		)
		if after != nil {
			f.After = &Position{}
			err = cmp.Or(err, read(after, "epoch", &f.After.Epoch), read(after, "seq", (*whole)(&f.After.Seq)))
			if err == nil && after["seq"] == nil {
				err = Errorf(BadRequest, "after.seq is required")
			}
		}
		if err != nil {
			return err
		}
	}
	if f.Type == TypeMessage && wrongID != nil {
		return wrongID
	}
	return f.check()
}

func read(fields map[string]json.RawMessage, name string, to any) error {
	raw, ok := fields[name]
	if !ok {
		return nil
	}
	if json.Unmarshal(raw, to) != nil {
		return Errorf(BadRequest, "field %q has the wrong type", name)
	}
	if s, ok := to.(*string); ok && HalfPair(raw) {
		*s = ""
		return Errorf(BadRequest, "field %q has half a surrogate pair", name)
	}
	return nil
}

// Known reports whether the frame's type exists.
func (f *ClientFrame) Known() bool {
	switch f.Type {
	case TypeJoin, TypeMessage, TypeLeave, TypePing:
		return true
	}
	return false
}

// check checks the fields that the frame's type requires.
func (f *ClientFrame) check() error {
	wrongID := CheckMessageID("id", f.ID)
	if wrongID != nil && f.Type != TypeMessage {
		f.ID = ""
	}
	switch f.Type {
	case TypeMessage:
		if wrongID != nil {
			return wrongID
		}
		if f.Body == nil {
			return Errorf(BadRequest, "MESSAGE needs a body")
		}
	case TypeJoin:
		return f.CheckJoin()
	case TypeLeave, TypePing:
	case "":
		return Errorf(BadRequest, "a frame needs a type")
	default:
		return Errorf(BadRequest, "the type is not one of JOIN, MESSAGE, LEAVE, PING")
	}
	return nil
}

// CheckJoin checks the fields of a JOIN.
func (f *ClientFrame) CheckJoin() error {
	if err := CheckID("roomId", f.RoomID); err != nil {
		return err
	}
	if err := CheckText("nickname", f.Nickname, MaxNicknameLen); err != nil {
		return err
	}
	switch {
	case f.After == nil:
	case f.After.Epoch == "":
		return Errorf(BadRequest, "after.epoch is required")
	case f.After.Seq < 0:
		return Errorf(BadRequest, "after.seq is negative")
	}
	return nil
}

// ServerFrame is any frame that a server sends, as clients decode it.
type ServerFrame struct {
	Type     string          `json:"type"`
	Seq      int64           `json:"seq,omitempty"`
	Time     time.Time       `json:"time,omitzero"`
	From     *Member         `json:"from,omitempty"`
	Member   *Member         `json:"member,omitempty"`
	Reason   string          `json:"reason,omitempty"`
	Occupied int             `json:"occupied,omitempty"`
	ID       string          `json:"id,omitempty"`
	Body     json.RawMessage `json:"body,omitempty"`

	// JOINED
	RoomID    string   `json:"roomId,omitempty"`
	Epoch     string   `json:"epoch,omitempty"`
	UserID    string   `json:"userId,omitempty"`
	SessionID string   `json:"sessionId,omitempty"`
	Identity  string   `json:"identity,omitempty"`
	Capacity  int      `json:"capacity,omitempty"`
	Members   []Member `json:"members,omitempty"`
	Recovered bool     `json:"recovered,omitempty"`

	// GAP, ERROR, DRAINING
	GapFrom          int64  `json:"-"`
	GapTo            int64  `json:"-"`
	Code             Code   `json:"code,omitempty"`
	Detail           string `json:"detail,omitempty"`
	ReconnectAfterMs int64  `json:"reconnectAfterMs,omitempty"`
}

// UnmarshalJSON decodes a frame. "from" is a member in MESSAGE and a seq in GAP.
func (f *ServerFrame) UnmarshalJSON(data []byte) error {
	type plain ServerFrame
	aux := struct {
		*plain
		From json.RawMessage `json:"from"`
		To   int64           `json:"to"`
	}{plain: (*plain)(f)}
	if err := json.Unmarshal(data, &aux); err != nil {
		return err
	}
	if len(aux.From) == 0 {
		return nil
	}
	if f.Type == TypeGap {
		f.GapTo = aux.To
		return json.Unmarshal(aux.From, &f.GapFrom)
	}
	return json.Unmarshal(aux.From, &f.From)
}

// Joined is the first frame of a session.
type Joined struct {
	Type      string   `json:"type"`
	RoomID    string   `json:"roomId"`
	Epoch     string   `json:"epoch"`
	Seq       int64    `json:"seq"`
	UserID    string   `json:"userId"`
	SessionID string   `json:"sessionId"`
	Identity  string   `json:"identity,omitempty"`
	Capacity  int      `json:"capacity"`
	Occupied  int      `json:"occupied"`
	Members   []Member `json:"members"`
	Recovered bool     `json:"recovered"`
}

// Encode returns the frame's bytes.
func (j Joined) Encode() []byte {
	j.Type = TypeJoined
	if j.Members == nil {
		j.Members = []Member{}
	}
	return mustMarshal(j)
}

// GapFrame returns a GAP, which says that the entries from…to will not come.
func GapFrame(from, to int64) []byte {
	return mustMarshal(struct {
		Type string `json:"type"`
		From int64  `json:"from"`
		To   int64  `json:"to"`
	}{TypeGap, from, to})
}

// ErrorFrame returns an ERROR. id is the id of the frame that it is about, or empty if that
// frame had none.
func ErrorFrame(err *Error, id string) []byte {
	return mustMarshal(struct {
		Type   string `json:"type"`
		Code   Code   `json:"code"`
		Detail string `json:"detail"`
		ID     string `json:"id,omitempty"`
	}{TypeError, err.Code, err.Detail, id})
}

// OccupancyFrame returns an OCCUPANCY, which is sent only in rooms whose presence is count.
func OccupancyFrame(occupied int) []byte {
	return []byte(`{"type":"OCCUPANCY","occupied":` + strconv.Itoa(occupied) + `}`)
}

// DrainingFrame returns a DRAINING, which asks the client to connect again after d.
func DrainingFrame(d time.Duration) []byte {
	return []byte(`{"type":"DRAINING","reconnectAfterMs":` + strconv.FormatInt(d.Milliseconds(), 10) + `}`)
}

// PongFrame returns a PONG, the reply to PING.
func PongFrame() []byte { return []byte(`{"type":"PONG"}`) }

// MessageTail returns the part of a MESSAGE that follows "time", which is the part that the
// sender's gateway knows. from is the sender's encoded Member; body must be valid JSON.
func MessageTail(from []byte, id string, body []byte) []byte {
	tail := make([]byte, 0, len(from)+len(id)+len(body)+32)
	tail = append(append(tail, `,"from":`...), from...)
	if id != "" {
		tail = append(append(tail, `,"id":`...), Quote(id)...)
	}
	return append(append(append(tail, `,"body":`...), body...), '}')
}

// MessageFrame builds a complete MESSAGE in the way the log's script does.
func MessageFrame(seq int64, at time.Time, tail []byte) []byte {
	head := `{"type":"MESSAGE","seq":` + strconv.FormatInt(seq, 10) + `,"time":"` + FormatTime(at) + `"`
	return append([]byte(head), tail...)
}

// Quote encodes s as a JSON string.
func Quote(s string) []byte { return mustMarshal(s) }

// Encode returns the member's JSON as it is written in frames.
func (m Member) Encode() []byte { return mustMarshal(m) }

// Marshal encodes a value as JSON for a frame. HTML characters are not escaped, so each
// counts as one byte.
func Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// mustMarshal encodes values of types whose encoding cannot fail.
func mustMarshal(v any) []byte {
	b, err := Marshal(v)
	if err != nil {
		panic("wire: " + err.Error())
	}
	return b
}
