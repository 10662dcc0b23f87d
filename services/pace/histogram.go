package pace

import (
	"math"
	"math/bits"
	"sync"
	"time"
)

// histogram counts durations in buckets whose width is 1/64 of the durations in them, so
// quantiles are accurate to within 1.6 %. The zero value is empty.
type histogram struct {
	mu     sync.Mutex
	counts [64 * 64]int64
	total  int64
	most   time.Duration
}

const (
	subBits    = 6
	subBuckets = 1 << subBits
)

func bucket(d time.Duration) int {
	n := uint64(max(d, 0))
	if n < subBuckets {
		return int(n)
	}
	shift := bits.Len64(n) - subBits - 1
	return (shift+1)*subBuckets + int(n>>shift)&(subBuckets-1)
}

// top returns the largest duration of a bucket.
func top(b int) time.Duration {
	if b < subBuckets {
		return time.Duration(b)
	}
	shift := b/subBuckets - 1
	return time.Duration((uint64(subBuckets+b%subBuckets)+1)<<shift - 1)
}

func (h *histogram) add(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts[bucket(d)]++
	h.total++
	h.most = max(h.most, d)
}

func (h *histogram) reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts, h.total, h.most = [len(h.counts)]int64{}, 0, 0
}

// quantile returns the duration that the share q (0 to 1) of all durations does not exceed,
// or 0 if the histogram is empty.
func (h *histogram) quantile(q float64) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	want := max(1, int64(math.Ceil(q*float64(h.total))))
	var seen int64
	for b, n := range h.counts {
		if seen += n; n > 0 && seen >= want {
			return min(top(b), h.most)
		}
	}
	return 0
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
