//go:build !race

package sim

// defaultSeeds take 90 s on one core, or half as long as two processes.
const defaultSeeds = 200
