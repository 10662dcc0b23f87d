//go:build !unix

package rawtcp

// Here Read and Write are those of *net.TCPConn.

// Idle reports whether the connection is open with nothing to read. On this platform it
// cannot know, and reports false.
func (c *Conn) Idle() bool { return false }
