//go:build unix

package rawtcp

import "syscall"

// Idle reports whether the connection is open with nothing to read.
func (c *Conn) Idle() bool {
	_, err := c.Take(make([]byte, 1), syscall.MSG_PEEK)
	return err == syscall.EAGAIN //nolint:errorlint // Take returns it unwrapped
}
