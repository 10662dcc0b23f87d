package gateway_test

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails when anything of a gateway goes on after its Close.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
