package httpapi

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/services/gateway/identity"
)

// deadlineRecorder remembers the read deadline of its connection.
type deadlineRecorder struct {
	*httptest.ResponseRecorder
	deadline time.Time
	set      bool
}

func (r *deadlineRecorder) SetReadDeadline(t time.Time) error {
	r.deadline, r.set = t, true
	return nil
}

// A deadline that is left on a connection passes while a slow request is served, and
// net/http then cancels that request and all that follow on the connection.
func TestTheBodysReadDeadlineEndsWithTheBody(t *testing.T) {
	signer, err := identity.NewSigner(bytes.Repeat([]byte("k"), 32), 0)
	if err != nil {
		t.Fatal(err)
	}
	handler := New(Config{Identities: signer, Logger: slog.New(slog.DiscardHandler)})
	for _, body := range []string{"", `{"nickname":"Ann"}`} {
		w := &deadlineRecorder{ResponseRecorder: httptest.NewRecorder()}
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/identities", strings.NewReader(body)))
		if w.Code != http.StatusCreated || !w.set || !w.deadline.IsZero() {
			t.Errorf("body %q: status %d, a deadline was set %v, and %v stayed", body, w.Code, w.set, w.deadline)
		}
	}
}
