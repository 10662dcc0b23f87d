package e2e

import (
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// stepBack lets every other process go before this one, until the function that it
// answers with is called: an attacker has machines of its own, here it shares the
// gateway's. Without the right to come back, the process stays behind.
//
// Niceness alone would not do. Since Linux 6.6 a thread goes on for over a millisecond
// though a more important one wants to, at each of the steps that a message takes from
// process to process. One of the idle class does not, and since 6.12 a thread may say
// how short its turns are.
func stepBack() (comeBack func()) {
	schedule(unix.SchedAttr{Policy: unix.SCHED_IDLE, Nice: 19, Runtime: uint64(100 * time.Microsecond)})
	return func() { schedule(unix.SchedAttr{Policy: unix.SCHED_NORMAL}) }
}

// schedule sets how every thread is scheduled; new ones are as the thread that made them.
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
