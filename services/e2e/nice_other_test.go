//go:build !linux

package e2e

// stepBack does nothing here.
func stepBack() (comeBack func()) { return func() {} }
