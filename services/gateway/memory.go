package gateway

import "time"

const (
	// leastChurn is how many sockets must have come or gone, where one that did both counts
	// twice, before it is worthwhile to collect the garbage of their joins. That takes 40 ms of
	// CPU for 5,000 members.
	leastChurn = 1_000
	// churnCalm is how long no socket may have come or gone before a collection.
	churnCalm = 2 * time.Second
)

// memory tells when to collect the garbage that joins leave behind. That is as much as members
// hold, and if the members are quiet afterwards, the runtime's next collection would come
// minutes later.
type memory struct {
	churn int           // sockets that came plus sockets that went since the last collection
	at    time.Duration // clock when one last came or went
}

// note counts a socket that came or went.
func (m *memory) note(now time.Duration) {
	m.churn++
	m.at = now
}

// due reports whether to collect now. If so, it starts counting again.
func (m *memory) due(now time.Duration) bool {
	if m.churn < leastChurn || now-m.at < churnCalm {
		return false
	}
	m.churn = 0
	return true
}
