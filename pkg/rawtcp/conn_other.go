//go:build !unix

package rawtcp

// Read and Write are those of *net.TCPConn here.

// Idle reports whether the connection is open with nothing to read. Here it does not know.
func (c *Conn) Idle() bool { return false }
