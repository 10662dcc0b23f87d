package pace

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestEveryDurationFallsIntoABucketThatIsNotWide(t *testing.T) {
	for d := time.Duration(1); d > 0; d = d*9/8 + 1 {
		b := bucket(d)
		if top(b) < d || float64(top(b)) > float64(d)*(1+1.0/subBuckets) {
			t.Errorf("%d falls into bucket %d, which ends at %d", d, b, top(b))
		}
		if bucket(top(b)) != b || top(b)+1 > 0 && bucket(top(b)+1) != b+1 {
			t.Errorf("bucket %d does not end at %d", b, top(b))
		}
	}
	if bucket(-time.Second) != 0 {
		t.Error("what is early counts as at once")
	}
}

func TestQuantilesAreThoseOfTheSortedValues(t *testing.T) {
	var h histogram
	if h.quantile(0.5) != 0 {
		t.Error("nothing was added")
	}
	random := rand.New(rand.NewPCG(1, 2))
	var all []time.Duration
	for range 10_000 {
		d := time.Duration(random.ExpFloat64() * float64(3*time.Millisecond))
		all = append(all, d)
		h.add(d)
	}
	slices.Sort(all)
	for _, q := range []float64{0.001, 0.5, 0.9, 0.99, 0.999, 1} {
		exact := all[int(q*float64(len(all)))-1]
		if got := h.quantile(q); got < exact || float64(got) > float64(exact)*(1+1.0/subBuckets) {
			t.Errorf("quantile %v is %v, not %v", q, got, exact)
		}
	}
	h.reset()
	if h.quantile(1) != 0 {
		t.Error("something is left")
	}
}
