//go:build race

package sim

// defaultSeeds is smaller under the race detector, where a seed takes many times as long.
const defaultSeeds = 7
