package redisstore

import (
	"testing"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

func TestAMemberIsReadAsItWasWritten(t *testing.T) {
	for _, m := range []wire.Member{
		{UserID: "u_1"},
		{UserID: "u_1", Nickname: "Zoë"},
		{UserID: `a"b`, Nickname: `"},"nickname":"x`},
		{UserID: `back\slash`, Nickname: `\`},
		{UserID: "}", Nickname: "<&>{}"},
		{UserID: "\u2028", Nickname: "😀"},
	} {
		head, rest := memberParts(m)
		got, err := sessionMember(m.UserID + "\ngw-1\n" + head + rest + "}")
		if err != nil || got != m {
			t.Errorf("%+v came back as %+v, %v", m, got, err)
		}
	}
	for _, bad := range []any{nil, "", "u\ngw\n", "u\ngw\n{", `u` + "\ngw\n" + `{"userId":"u"`, "u\ngw\n" + `{"userId":"u"}}`} {
		if m, err := sessionMember(bad); err == nil {
			t.Errorf("%q was read as %+v", bad, m)
		}
	}
}
