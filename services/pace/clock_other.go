//go:build !linux

package pace

import (
	"errors"
	"fmt"
	"time"
)

var errLinuxOnly = fmt.Errorf("CPU time and memory of processes: %w", errors.ErrUnsupported)

func precise() func() { return func() {} }

// sleepUntil returns when the run's clock shows at, or at once if that has passed.
func sleepUntil(at time.Duration) { time.Sleep(at - now()) }

func threadCPU() (time.Duration, error) { return 0, errLinuxOnly }

func processCPU(int) (time.Duration, error) { return 0, errLinuxOnly }
