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

// wait waits for events for up to most, which is a second or less. It returns how many came. The
// scheduler is told of the wait unless the last one was short.
func (p *poller) wait(events []unix.EpollEvent, most time.Duration) (n int, err error) {
	if p.busy {
		came, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
			uintptr(len(events)), uintptr(unseenMost.Milliseconds()), 0, 0)
		if errno != 0 {
			return 0, errno
		}
		if came > 0 {
			return int(came), nil
		}
	}
	began := now()
	n, err = unix.EpollWait(p.epoll, events, int(most.Milliseconds()))
	p.busy = n > 0 && now()-began < unseenMost
	return n, err
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
