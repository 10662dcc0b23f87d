package roomlog

import "time"

// What the tests outside the package look at: they need package redistest, which
// imports this one.
const ProbePatience = probePatience

// DelayAfter is delayAfter.
func DelayAfter(last, lived time.Duration) time.Duration { return delayAfter(last, lived) }
