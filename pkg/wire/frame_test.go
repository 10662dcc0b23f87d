package wire_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

func TestOnlyTheFieldsOfItsTypeCountInAFrame(t *testing.T) {
	for frame, want := range map[string]wire.ClientFrame{
		`{"type":"MESSAGE","body":1,"nickname":7,"after":"x","roomId":[],"color":{}}`: {Type: wire.TypeMessage, Body: []byte("1")},
		`{"type":"LEAVE","id":7,"after":"later","body":{"a":1}}`:                      {Type: wire.TypeLeave, Body: []byte(`{"a":1}`)},
		`{"type":"PING","permit":null,"id":"` + strings.Repeat("x", 65) + `"}`:        {Type: wire.TypePing},
		`{"type":"JOIN","roomId":"r","id":7,"after":null}`:                            {Type: wire.TypeJoin, RoomID: "r"},
		`{"type":"JOIN","roomId":"r","after":{"epoch":"e","seq":3,"more":[]}}`: {
			Type: wire.TypeJoin, RoomID: "r", After: &wire.Position{Epoch: "e", Seq: 3},
		},
	} {
		parsed(t, frame, want)
	}
}

func TestNamesInAnotherCaseAreOtherNames(t *testing.T) {
	for frame, want := range map[string]wire.ClientFrame{
		`{"type":"MESSAGE","body":"a","Body":"b","ID":"c"}`:          {Type: wire.TypeMessage, Body: []byte(`"a"`)},
		`{"type":"MESSAGE","body":{"Type":"PING"}, "\u0042ODY" : 2}`: {Type: wire.TypeMessage, Body: []byte(`{"Type":"PING"}`)},
		`{"\u0074ype":"PING","TYPE":1}`:                              {Type: wire.TypePing},
		`{"type":"JOIN","roomId":"r","ROOMID":"q","after":{"SEQ":1,"seq":2,"epoch":"e"}}`: {
			Type: wire.TypeJoin, RoomID: "r", After: &wire.Position{Epoch: "e", Seq: 2},
		},
	} {
		parsed(t, frame, want)
	}
	for _, frame := range []string{
		`{"TYPE":"PING"}`, `{"type":"MESSAGE","BODY":1}`, `{"Type":"JOIN","roomId":"r"}`, `{"type":"JOIN","ROOMID":"r"}`,
	} {
		refused(t, frame)
	}
}

func TestFieldsOfTheWrongTypeAreRefused(t *testing.T) {
	for _, frame := range []string{
		`{"type":1}`, `{"type":"MESSAGE","body":1,"id":7}`, `{"type":"JOIN","roomId":1}`, `{"type":"JOIN","roomId":"r","nickname":[]}`,
		`{"type":"JOIN","roomId":"r","after":"x"}`, `{"type":"JOIN","roomId":"r","after":{}}`, `{"type":"JOIN","roomId":"r","after":{"seq":1}}`,
		`{"type":"JOIN","roomId":"r","after":{"epoch":"e"}}`, `{"type":"JOIN","roomId":"r","after":{"epoch":null,"seq":1}}`,
		`{"type":"JOIN","roomId":"r","after":{"epoch":"e","seq":"1"}}`, `{"type":"JOIN","roomId":"r","after":{"epoch":"e","seq":-1}}`,
	} {
		refused(t, frame)
	}
}

// Otherwise two ids that differ only in such a half would become equal.
func TestHalfASurrogatePairIsNoText(t *testing.T) {
	for _, frame := range []string{
		`{"type":"MESSAGE","body":1,"id":"a\ud83d"}`, `{"type":"MESSAGE","body":1,"id":"\uDE00\ud83d"}`,
		`{"type":"MESSAGE","body":1,"id":"\ud83dx\ude00"}`, `{"type":"MESSAGE","body":1,"id":"\ud83d\\ude00"}`,
		`{"type":"JOIN","roomId":"r","nickname":"\ude00"}`,
	} {
		refused(t, frame)
	}
	for frame, want := range map[string]wire.ClientFrame{
		`{"type":"MESSAGE","id":"\ud83d\ude00","body":"\ud83d"}`: {Type: wire.TypeMessage, ID: "😀", Body: []byte(`"\ud83d"`)},
		`{"type":"MESSAGE","id":"\\ud83d \ufffd�","body":1}`:     {Type: wire.TypeMessage, ID: `\ud83d ` + "\ufffd\ufffd", Body: []byte("1")},
		`{"type":"JOIN","roomId":"r","nickname":"\u00e9\ud83D\uDe00\"\u0041"}`: {
			Type: wire.TypeJoin, RoomID: "r", Nickname: `é😀"A`,
		},
	} {
		parsed(t, frame, want)
	}
}

func TestAPositionIsAnyWholeNumber(t *testing.T) {
	for number, want := range map[string]int64{"3.0": 3, "1e2": 100, "0": 0, "-0.0": 0, "9007199254740993": 1<<53 + 1} {
		parsed(t, `{"type":"JOIN","roomId":"r","after":{"epoch":"e","seq":`+number+`}}`, wire.ClientFrame{
			Type: wire.TypeJoin, RoomID: "r", After: &wire.Position{Epoch: "e", Seq: want},
		})
	}
	for _, number := range []string{"0.5", "1e400", "1e17", "true", "[]", "null"} {
		refused(t, `{"type":"JOIN","roomId":"r","after":{"epoch":"e","seq":`+number+`}}`)
	}
}

func parsed(t *testing.T, frame string, want wire.ClientFrame) {
	t.Helper()
	var got wire.ClientFrame
	err := wire.ParseClientFrame([]byte(frame), &got)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%s: %v\n%s", frame, err, diff)
	}
}

func refused(t *testing.T, frame string) {
	t.Helper()
	if err := wire.ParseClientFrame([]byte(frame), new(wire.ClientFrame)); !errors.Is(err, &wire.Error{Code: wire.BadRequest}) {
		t.Errorf("%s: %v", frame, err)
	}
}
