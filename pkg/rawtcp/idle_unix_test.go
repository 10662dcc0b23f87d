//go:build unix

package rawtcp_test

import (
	"testing"
	"time"
)

// Idle distinguishes a connection that can be used again from one that cannot.
func TestIdle(t *testing.T) {
	c, peer := pair(t)
	noLongerIdle := func(what string) {
		t.Helper()
		for by := time.Now().Add(patience); c.Idle(); {
			if time.Now().After(by) {
				t.Fatalf("%s is not seen", what)
			}
		}
	}
	if !c.Idle() {
		t.Error("not idle at first")
	}
	_, _ = peer.Write([]byte("x"))
	noLongerIdle("what came")
	one := make([]byte, 1)
	if _, err := c.Read(one); err != nil || one[0] != 'x' {
		t.Fatalf("%q, %v", one, err)
	}
	if !c.Idle() {
		t.Error("not idle once it was read")
	}
	_ = peer.Close()
	noLongerIdle("the end")
	_ = c.Close()
	if c.Idle() {
		t.Error("idle when closed")
	}
}
