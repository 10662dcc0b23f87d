package wire_test

import (
	"strings"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

var text = strings.Repeat("hello ", 21) + "ok" // 128 bytes

// Each frame from a client is parsed once.
func BenchmarkParseMessage(b *testing.B) {
	data := []byte(`{"type":"MESSAGE","id":"VR6E2J7Q","body":"` + text + `"}`)
	var f wire.ClientFrame
	b.ReportAllocs()
	for b.Loop() {
		if err := wire.ParseClientFrame(data, &f); err != nil {
			b.Fatal(err)
		}
	}
}

// Each frame for members is built once for the whole cluster.
func BenchmarkMessageFrame(b *testing.B) {
	from := wire.Member{UserID: "u_WLFLQWJUTWMUGOWLELG5J7LNUY", Nickname: "Ada"}.Encode()
	body, at := wire.Quote(text), time.Now()
	b.ReportAllocs()
	for b.Loop() {
		wire.MessageFrame(123456, at, wire.MessageTail(from, "VR6E2J7Q", body))
	}
}

func BenchmarkJoinedFrame(b *testing.B) {
	j := wire.Joined{RoomID: "tea", Epoch: "7LLMKPCHQAYH56IX", Seq: 7, UserID: "u_WLFLQWJUTWMUGOWLELG5J7LNUY", SessionID: "VR6E", Capacity: 4}
	for range 4 {
		j.Members = append(j.Members, wire.Member{UserID: j.UserID, Nickname: "Ada"})
	}
	b.ReportAllocs()
	for b.Loop() {
		j.Encode()
	}
}
