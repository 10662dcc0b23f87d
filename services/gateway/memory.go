package gateway

import "time"

const (
	// churnMost is how many sockets may have come and gone before it is worth while to
	// collect what their joins left behind, at 40 ms of CPU for 5,000 members.
	churnMost = 1_000
	// churnCalm is how long nothing comes or goes before that.
	churnCalm = 2 * time.Second
)

// memory tells when to collect what joins leave behind. They leave as much garbage as
// members hold, and where the members then are quiet, the next collection would come
// minutes later.
type memory struct {
	churn int           // sockets that have come and gone since the last collection
	at    time.Duration // clock when the last one did
}

// note counts a socket that came or went.
func (m *memory) note(now time.Duration) {
	m.churn++
	m.at = now
}

// due reports whether to collect now, and begins anew if so.
func (m *memory) due(now time.Duration) bool {
	if m.churn < churnMost || now-m.at < churnCalm {
		return false
	}
	m.churn = 0
	return true
}
