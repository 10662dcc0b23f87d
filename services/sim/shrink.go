package sim

import (
	"slices"
	"testing"
)

// Shrink looks for a shorter plan that breaks the same rule as the first violation of r. It
// leaves steps out, at first half of them and then fewer and fewer, and runs the plan at
// most tries times. It returns the result of the shortest plan that it finds.
func Shrink(t *testing.T, r Result, c Config, tries int) Result {
	if len(r.Violations) == 0 {
		return r
	}
	rule := r.Violations[0].Rule
	fails := func(p Plan) (Result, bool) {
		tries--
		again := Run(t, p, c)
		for _, v := range again.Violations {
			if v.Rule == rule {
				return again, true
			}
		}
		return again, false
	}
	for size := len(r.Plan.Steps) / 2; size > 0; size /= 2 {
		for from := 0; from < len(r.Plan.Steps) && tries > 0; {
			if shorter, ok := fails(r.Plan.without(from, size)); ok {
				r = shorter
			} else {
				from += size
			}
		}
	}
	return r
}

// without returns the plan without n steps. The others happen at the same times as before.
func (p Plan) without(from, n int) Plan {
	to := min(from+n, len(p.Steps))
	rest := slices.Clone(p.Steps[to:])
	if len(rest) > 0 {
		for _, s := range p.Steps[from:to] {
			rest[0].After += s.After
		}
	}
	p.Steps = slices.Concat(p.Steps[:from], rest)
	return p
}
