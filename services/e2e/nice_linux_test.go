package e2e

import (
	"os"
	"strconv"
	"syscall"
)

// stepBack lets every other process go before this one, until the function that it
// answers with is called: an attacker has machines of its own, here it shares the
// gateway's. Without the right to come back, the process stays behind.
func stepBack() (comeBack func()) {
	nice(19)
	return func() { nice(0) }
}

// nice sets the priority of every thread; new ones have that of the thread that made them.
func nice(n int) {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, thread := range threads {
		if id, err := strconv.Atoi(thread.Name()); err == nil {
			_ = syscall.Setpriority(syscall.PRIO_PROCESS, id, n)
		}
	}
}
