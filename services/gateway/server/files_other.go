//go:build !unix

package server

import "math"

// openFiles returns how many files the process may open. On these systems no limit is known.
func openFiles() int { return math.MaxInt32 }
