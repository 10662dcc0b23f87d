package web_test

import (
	"fmt"
	"net/http"
	"regexp"
	"testing"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

func TestCloseCodesAreNamedAsOnTheWire(t *testing.T) {
	names := map[string]string{}
	source := request(http.MethodGet, "/client/codes.js").Body.String()
	for _, entry := range regexp.MustCompile(`(?m)^  (\d{4}): '([A-Z_]+)',$`).FindAllStringSubmatch(source, -1) {
		names[entry[1]] = entry[2]
	}
	// The name of 1000 is our own, and the server never closes with the others.
	for code, name := range map[string]string{"1000": "LEFT", "1006": "LOST", "1011": "INTERNAL", "1013": "TRY_AGAIN_LATER"} {
		if names[code] != name {
			t.Errorf("codes.js calls %s %q, want %q", code, names[code], name)
		}
		delete(names, code)
	}
	for code := wire.CloseGoingAway; code < 5000; code++ {
		number, want := fmt.Sprint(uint16(code)), code.String()
		if want == "CLOSE_"+number {
			want = ""
		}
		if names[number] != want {
			t.Errorf("codes.js calls %s %q, the wire %q", number, names[number], want)
		}
	}
}
