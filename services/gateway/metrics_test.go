package gateway

import (
	"strings"
	"testing"

	"github.com/VictoriaMetrics/metrics"
)

func TestEveryCounterIsThereBeforeItsFirstEvent(t *testing.T) {
	set := metrics.NewSet()
	newMetrics(set)
	var text strings.Builder
	set.WritePrometheus(&text)
	for _, series := range []string{
		`deliveries_total`, `catch_ups_total`, `drops_total{reason="inbox_full"}`,
		`refusals_total{reason="origin"}`, `refusals_total{reason="rate"}`,
		`refusals_total{reason="full"}`, `refusals_total{reason="stopping"}`,
		`renewals_total{result="renewed"}`, `renewals_total{result="lost"}`, `renewals_total{result="failed"}`,
		`joins_total{result="ok"}`, `joins_total{result="GONE"}`, `joins_total{result="ROOM_FULL"}`, `joins_total{result="INTERNAL"}`,
		`messages_total{result="ok"}`, `messages_total{result="duplicate"}`, `messages_total{result="no_seat"}`,
		`messages_total{result="UNAVAILABLE"}`, `messages_total{result="INTERNAL"}`,
		`closes_total{code="NORMAL"}`, `closes_total{code="LEASE_LOST"}`, `closes_total{code="SLOW_CONSUMER"}`,
		`closes_total{code="BROKEN"}`, `closes_total{code="OTHER"}`,
	} {
		if !strings.Contains(text.String(), "anteroom_gateway_"+series+" 0\n") {
			t.Errorf("no %s at 0", series)
		}
	}
	for _, never := range []string{`joins_total{result="ROOM_EXISTS"}`, `messages_total{result="ROOM_FULL"}`} {
		if strings.Contains(text.String(), never) {
			t.Errorf("%s is there, which never counts", never)
		}
	}
}
