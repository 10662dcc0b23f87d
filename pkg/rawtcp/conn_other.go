//go:build !linux || 386 || race

package rawtcp

// Read and Write are those of *net.TCPConn here. The race detector sees what they do, and
// what others learn from each other by them.

// Idle reports whether the connection is open with nothing to read. Here it does not know.
func (c *Conn) Idle() bool { return false }
