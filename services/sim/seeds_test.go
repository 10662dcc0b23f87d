//go:build !race

package sim

// defaultSeeds seeds take 90 s on one core, or half as long in two processes.
const defaultSeeds = 200
