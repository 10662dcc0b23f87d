package wire_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// FuzzParseClientFrame checks, for any text, that the error is one of the two kinds, that an
// accepted frame keeps the limits, and that a MESSAGE made of it is JSON with the same
// content.
func FuzzParseClientFrame(f *testing.F) {
	for _, seed := range []string{
		`{"type":"JOIN","roomId":"r","permit":"r.S","identity":"i","nickname":"ü","after":{"epoch":"e","seq":3}}`,
		`{"type":"JOIN","roomId":"r","after":{"seq":-1}}`, `{"type":"JOIN","roomId":"a b"}`,
		`{"type":"MESSAGE","id":"i","body":{"a":[1,2.5e9,null,"\ud800"]}}`, `{"type":"MESSAGE","body":null}`,
		`{"type":"MESSAGE","body":1,"id":"\u0000"}`, `{"type":"LEAVE"}`, `{"type":"PING","body":[[[[]]]]}`,
		`{"type":1}`, `{"type":"?"}`, `{}`, `[]`, `null`, ``, "\xff", ` {"type" : "PING"} `, `{"type":"PING"}{}`,
		`{"TYPE":"PING"}`, `{"type":"PING","type":"LEAVE"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var frame wire.ClientFrame
		err := wire.ParseClientFrame(data, &frame)
		if errors.Is(err, wire.ErrNotUTF8) != !utf8.Valid(data) {
			t.Fatalf("UTF-8 is %v, the error %v", utf8.Valid(data), err)
		}
		if !utf8.ValidString(frame.ID) {
			t.Fatalf("the id %q would be sent back", frame.ID)
		}
		if err == nil && utf8.RuneCountInString(frame.ID) > wire.MaxMessageIDLen {
			t.Fatalf("an id of %d characters passed", utf8.RuneCountInString(frame.ID))
		}
		if err != nil {
			if !errors.Is(err, wire.ErrNotUTF8) && !errors.Is(err, &wire.Error{Code: wire.BadRequest}) {
				t.Fatal(err)
			}
			return
		}
		switch frame.Type {
		case wire.TypeJoin:
			if frame.CheckJoin() != nil {
				t.Fatal("a JOIN that CheckJoin refuses")
			}
		case wire.TypeMessage:
			checkMessage(t, frame)
		case wire.TypeLeave, wire.TypePing:
		default:
			t.Fatalf("type %q", frame.Type)
		}
	})
}

func checkMessage(t *testing.T, frame wire.ClientFrame) {
	from := wire.Member{UserID: "u", Nickname: "\"<\u2028"}
	message := wire.MessageFrame(7, time.UnixMilli(1), wire.MessageTail(from.Encode(), frame.ID, frame.Body))
	var got wire.ServerFrame
	if err := json.Unmarshal(message, &got); err != nil || !utf8.Valid(message) {
		t.Fatalf("%s: %v", message, err)
	}
	if got.Type != wire.TypeMessage || got.Seq != 7 || got.ID != frame.ID || *got.From != from || string(got.Body) != string(frame.Body) {
		t.Fatalf("%+v became %s", frame, message)
	}
}
