package roomlog

// What the tests outside the package look at: they need package redistest, which
// imports this one.
const ProbePatience = probePatience
