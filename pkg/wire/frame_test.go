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
		`{"type":"JOIN","roomId":"r","ROOMID":"q","after":{"SEQ":1,"seq":2}}`: {
			Type: wire.TypeJoin, RoomID: "r", After: &wire.Position{Seq: 2},
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
		`{"type":"JOIN","roomId":"r","after":"x"}`, `{"type":"JOIN","roomId":"r","after":{"seq":"1"}}`, `{"type":"JOIN","roomId":"r","after":{"seq":-1}}`,
	} {
		refused(t, frame)
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
