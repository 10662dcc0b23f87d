package pace

import (
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The driver waits thousands of times a second, mostly for less than a millisecond. If Go's
// scheduler is told of such a wait, it wakes its own watching thread for it (see rawtcp), which
// took two fifths of the driver's CPU. It is not told of short waits here. Such a wait keeps one
// of the scheduler's processors, so each goroutine that waits like this gets one more of them.

// unseenMost is how long a wait that the scheduler is not told of may take. It delays the
// garbage collector.
const unseenMost = time.Millisecond

var processors sync.Mutex

// addProcessors changes how many processors the scheduler has.
func addProcessors(n int) {
	processors.Lock()
	defer processors.Unlock()
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + n)
}

// epollWait waits for events for up to most, which is a second or less. It returns how many
// came.
func epollWait(epoll int, events []unix.EpollEvent, most time.Duration) (int, error) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
		uintptr(len(events)), uintptr(unseenMost.Milliseconds()), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	if n > 0 {
		return int(n), nil
	}
	return unix.EpollWait(epoll, events, int(most.Milliseconds()))
}

// nap sleeps for d, or less if it is interrupted.
func nap(d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	if d > unseenMost {
		_ = unix.Nanosleep(&ts, nil)
		return
	}
	_, _, _ = syscall.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
}
