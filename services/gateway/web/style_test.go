package web_test

import (
	"math"
	"net/http"
	"regexp"
	"strconv"
	"testing"
)

// WCAG 2.2 wants 4.5:1 for text (1.4.3) and 3:1 for the borders of fields (1.4.11).
func TestColoursStandOut(t *testing.T) {
	colours := map[string][]string{} // light, dark
	style := request(http.MethodGet, "/style.css").Body.String()
	for _, c := range regexp.MustCompile(`--([a-z-]+): light-dark\(#(\w{6}), #(\w{6})\)`).FindAllStringSubmatch(style, -1) {
		colours[c[1]] = c[2:]
	}
	for _, pair := range []struct {
		front, back string
		least       float64
	}{
		{"ink", "paper", 4.5}, {"ink", "card", 4.5}, {"ink", "teal-soft", 4.5}, {"ink", "amber-soft", 4.5},
		{"quiet", "paper", 4.5}, {"quiet", "card", 4.5}, {"teal", "paper", 4.5}, {"teal", "card", 4.5},
		{"amber", "card", 4.5}, {"red", "card", 4.5}, {"on-teal", "teal", 4.5},
		{"field-line", "paper", 3}, {"field-line", "card", 3},
	} {
		for i, scheme := range []string{"light", "dark"} {
			front, back := luminance(t, colours[pair.front][i]), luminance(t, colours[pair.back][i])
			if got := (max(front, back) + 0.05) / (min(front, back) + 0.05); got < pair.least {
				t.Errorf("%s on %s, %s: %.2f:1, want %v:1", pair.front, pair.back, scheme, got, pair.least)
			}
		}
	}
}

// luminance is WCAG's relative luminance of a colour in six hexadecimal digits.
func luminance(t *testing.T, hex string) float64 {
	t.Helper()
	n, err := strconv.ParseUint(hex, 16, 24)
	if err != nil {
		t.Fatal(err)
	}
	linear := func(shift int) float64 {
		c := float64(n>>shift&0xff) / 0xff
		if c <= 0.04045 {
			return c / 12.92
		}
		return math.Pow((c+0.055)/1.055, 2.4)
	}
	return 0.2126*linear(16) + 0.7152*linear(8) + 0.0722*linear(0)
}
