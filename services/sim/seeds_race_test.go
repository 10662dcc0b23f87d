//go:build race

package sim

// defaultSeeds under the race detector, with which a seed takes many times as long.
const defaultSeeds = 12
