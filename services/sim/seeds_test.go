//go:build !race

package sim

// defaultSeeds fit in the 90 s that `make test` gives them.
const defaultSeeds = 200
