package rpc

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// hosts is what DNS answers. It records the addresses that are dialled.
type hosts struct {
	mu      sync.Mutex
	answer  []string
	asked   int
	dialled []string
}

func (h *hosts) set(answer ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answer = answer
}

func (h *hosts) lookup(_ context.Context, host string) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked++
	if host != "rooms" || h.answer == nil {
		return nil, errors.New("no such host")
	}
	return slices.Clone(h.answer), nil
}

func (h *hosts) dial(_ context.Context, address string) (net.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Contains(h.dialled, address) {
		h.dialled = append(h.dialled, address)
		slices.Sort(h.dialled)
	}
	return nil, errors.New("refused")
}

// dials checks which addresses are dialled after the given time.
func (h *hosts) dials(t *testing.T, after time.Duration, want ...string) {
	t.Helper()
	time.Sleep(after)
	h.mu.Lock()
	h.dialled = nil
	h.mu.Unlock()
	time.Sleep(2 * redialEvery)
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Equal(h.dialled, want) {
		t.Errorf("dials %q after %v, want %q", h.dialled, after, want)
	}
}

// Containers that replace others have new addresses.
func TestServersAreFoundAtTheirNewAddressesWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hosts{answer: []string{"10.0.0.1", "10.0.0.2"}}
		conn, err := Dial("dns:///rooms:50051", ClientConfig{Lookup: h.lookup, Dialer: h.dial})
		if err != nil {
			t.Fatal(err)
		}
		conn.Connect()
		const soon = lookupEvery + redialEvery/10
		h.dials(t, soon, "10.0.0.1:50051", "10.0.0.2:50051")
		h.set("10.0.0.2", "10.0.0.3", "10.0.0.3") // replaced
		h.dials(t, soon, "10.0.0.2:50051", "10.0.0.3:50051")
		h.set("10.0.0.2", "10.0.0.3", "10.0.0.4") // added
		h.dials(t, soon, "10.0.0.2:50051", "10.0.0.3:50051", "10.0.0.4:50051")
		h.set() // the known addresses stay in use while DNS has no answer
		h.dials(t, 5*time.Minute, "10.0.0.2:50051", "10.0.0.3:50051", "10.0.0.4:50051")
		h.set("fd00::5")
		h.dials(t, soon, "[fd00::5]:50051")
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		asked := h.asked
		time.Sleep(time.Minute)
		if h.asked != asked {
			t.Error("DNS is asked though the connection is closed")
		}
	})
}

func TestServersThatDNSDidNotKnowAtFirstAreFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hosts{}
		conn, err := Dial("dns:///rooms:50051", ClientConfig{Lookup: h.lookup, Dialer: h.dial})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.Connect()
		h.dials(t, 5*time.Minute)
		h.set("10.0.0.1")
		h.dials(t, lookupEvery+redialEvery/10, "10.0.0.1:50051")
	})
}
