package pace

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// precise makes sleepUntil precise for the calling goroutine, until the function that it
// returns is called. Go's own timers are up to a millisecond late.
func precise() func() {
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // otherwise up to 50 µs late
	addProcessors(1)
	return func() {
		addProcessors(-1)
		runtime.UnlockOSThread()
	}
}

// sleepUntil returns when the run's clock shows at, or at once if that has passed.
func sleepUntil(at time.Duration) {
	for d := at - now(); d > 0; d = at - now() {
		nap(d)
	}
}

// threadCPU returns the CPU time of the calling thread.
func threadCPU() (time.Duration, error) { return cpuOf(unix.CLOCK_THREAD_CPUTIME_ID) }

// processCPU returns the CPU time of a process, in nanosecond resolution.
func processCPU(pid int) (time.Duration, error) {
	// CPUCLOCK_SCHED of the process, as clock_getcpuclockid(3) computes it.
	return cpuOf(int32(^pid)<<3 | 2)
}

func cpuOf(clock int32) (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, err
	}
	return time.Duration(ts.Nano()), nil
}
