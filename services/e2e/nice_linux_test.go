package e2e

import (
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// stepBack gives every other process priority over this one until comeBack is called: a real
// attacker has machines of its own, but here it shares that of the gateway. If the process
// may not raise its priority again, it keeps the low one.
//
// Niceness alone is not enough. Since Linux 6.6 a thread can run on for more than a
// millisecond although a more important one is ready, and that at each step that a message
// takes from process to process. A thread of the idle class does not, and since 6.12 a
// thread can set how short its turns are.
func stepBack() (comeBack func()) {
	schedule(unix.SchedAttr{Policy: unix.SCHED_IDLE, Nice: 19, Runtime: uint64(100 * time.Microsecond)})
	return func() { schedule(unix.SchedAttr{Policy: unix.SCHED_NORMAL}) }
}

// schedule sets how every thread is scheduled. New threads inherit that from their creator.
func schedule(attr unix.SchedAttr) {
	attr.Size = unix.SizeofSchedAttr
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, thread := range threads {
		if id, err := strconv.Atoi(thread.Name()); err == nil {
			_ = unix.SchedSetAttr(id, &attr, 0)
		}
	}
}
