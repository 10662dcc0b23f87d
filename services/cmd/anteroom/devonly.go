//go:build devonly

package main

import "github.com/alecthomas/kong"

// measuring is empty: there is only dev.
type measuring struct{}

func (measuring) vars() kong.Vars { return nil }
