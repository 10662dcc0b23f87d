//go:build devonly

package main

import "github.com/alecthomas/kong"

// measuring is empty: this build has only the command dev.
type measuring struct{}

func (measuring) vars() kong.Vars { return nil }
