//go:build unix

package rawtcp_test

import (
	"testing"
)

// Idle tells a connection that can be used again from one that cannot.
func TestIdle(t *testing.T) {
	c, peer := pair(t)
	if !c.Idle() {
		t.Error("not idle at first")
	}
	_, _ = peer.Write([]byte("x"))
	for c.Idle() { // it has come as soon as the kernel says so
	}
	one := make([]byte, 1)
	if _, err := c.Read(one); err != nil || one[0] != 'x' {
		t.Fatalf("%q, %v", one, err)
	}
	if !c.Idle() {
		t.Error("not idle once it was read")
	}
	_ = peer.Close()
	for c.Idle() {
	}
	_ = c.Close()
	if c.Idle() {
		t.Error("idle when closed")
	}
}
