package pace

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// serverFrame is a frame as a server sends it.
func serverFrame(opcode byte, payload string) []byte {
	head := []byte{0x80 | opcode, byte(len(payload))}
	if len(payload) > 125 {
		head = []byte{0x80 | opcode, 126, byte(len(payload) >> 8), byte(len(payload))}
	}
	if len(payload) > 1<<16-1 {
		n := len(payload)
		head = []byte{0x80 | opcode, 127, 0, 0, 0, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
	}
	return append(head, payload...)
}

func delivered(seq int64, body string) string {
	return string(wire.MessageFrame(seq, time.Unix(0, 0), wire.MessageTail([]byte(`{"userId":"u"}`), "", wire.Quote(body))))
}

func TestTheScannerFindsEveryFrameHoweverItComes(t *testing.T) {
	var stream []byte
	var want []string
	for _, f := range []struct {
		opcode  byte
		payload string
	}{
		{opText, delivered(1, "short")},
		{opText, delivered(2, strings.Repeat("long ", 100))},
		{opPing, ""},
		{opText, `{"type":"GAP","from":3,"to":9}`},
		{opText, delivered(10, strings.Repeat("huge ", 20_000))},
		{opText, `{"type":"MEMBER_LEFT","seq":11,"time":"1970-01-01T00:00:00.000Z","member":{"userId":"u"},"reason":"LEFT","occupied":1}`},
		{opPing, "heard?"},
		{opText, `{}`},
		{opText, delivered(12, "last")},
		{opClose, "\x0f\xa0BAD_REQUEST"},
	} {
		stream = append(stream, serverFrame(f.opcode, f.payload)...)
		message := strings.HasPrefix(f.payload, `{"type":"MESSAGE"`)
		want = append(want, fmt.Sprint(f.opcode, message, seqOf([]byte(f.payload)), len(f.payload)))
	}
	for _, whole := range []bool{true, false} {
		for _, piece := range []int{1, 2, 3, 7, 50, 129, 4096, len(stream)} {
			s := scanner{whole: whole}
			var got []string
			for part := range slices.Chunk(stream, piece) {
				err := s.scan(slices.Clone(part), func(f frame) error {
					size := len(f.payload)
					if f.message && !whole {
						size = -1 // depends on how much had come
					}
					got = append(got, fmt.Sprint(f.opcode, f.message, seqOf(f.payload), size))
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			if len(got) != len(want) {
				t.Fatalf("whole=%v, %d bytes at a time: %d frames, not %d", whole, piece, len(got), len(want))
			}
			for i := range got {
				prefix, isCut := strings.CutSuffix(got[i], " -1")
				if got[i] != want[i] && !(isCut && strings.HasPrefix(want[i], prefix+" ")) {
					t.Errorf("whole=%v, %d bytes at a time: frame %d is %s, not %s", whole, piece, i, got[i], want[i])
				}
			}
		}
	}
}

func TestTheScannerRefusesWhatNoServerMaySend(t *testing.T) {
	for name, b := range map[string][]byte{
		"masked":    {0x81, 0x81, 0, 0, 0, 0, 'x'},
		"fragment":  {0x01, 0x01, 'x'},
		"boundless": {0x81, 127, 0xff, 0, 0, 0, 0, 0, 0, 0},
	} {
		if err := new(scanner).scan(b, func(frame) error { return nil }); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestAStampComesBackFromTheFrameThatIsDelivered(t *testing.T) {
	f := messageFrame()
	setStamp(f, 123456789012, 4711)
	payload := f[8:] // after a header of 4 bytes and the mask
	var sent wire.ClientFrame
	if err := wire.ParseClientFrame(payload, &sent); err != nil {
		t.Fatal(err)
	}
	if len(sent.Body) != textBytes+2 {
		t.Errorf("the text has %d bytes, not %d", len(sent.Body)-2, textBytes)
	}
	for name, delivered := range map[string]string{
		"body last":  string(wire.MessageFrame(7, time.Unix(0, 0), wire.MessageTail([]byte(`{"userId":"u"}`), "", sent.Body))),
		"body first": `{"type":"MESSAGE","seq":7,"body":` + string(sent.Body) + `,"from":{"userId":"u"}}`,
	} {
		due, who, ok := stampOf([]byte(delivered))
		if due != 123456789012 || who != 4711 || !ok {
			t.Errorf("%s: %d from %d, %v", name, due, who, ok)
		}
	}
	for _, other := range []string{`{}`, delivered(1, "hello"), delivered(2, strings.Repeat("x", textBytes))} {
		if _, _, ok := stampOf([]byte(other)); ok {
			t.Errorf("a stamp in %s", other)
		}
	}
}
