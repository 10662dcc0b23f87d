//go:build !linux

package pace

import (
	"errors"
	"fmt"
	"time"
)

var errLinuxOnly = fmt.Errorf("CPU time and memory of processes: %w", errors.ErrUnsupported)

func precise() func() { return func() {} }

// sleepUntil returns at a time of the run's clock, or at once.
func sleepUntil(at time.Duration) { time.Sleep(at - now()) }

func threadCPU() (time.Duration, error) { return 0, errLinuxOnly }

func processCPU(int) (time.Duration, error) { return 0, errLinuxOnly }
