package cluster

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
)

// dieWithParent makes the kernel kill the process when the thread that started it ends. That
// also works after a panic or go test's own timeout, when no cleanup runs.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

type launch struct {
	cmd *exec.Cmd
	err chan error
}

// launcher starts processes on one thread that lives as long as this process: Pdeathsig acts
// on the death of the thread that started the process.
var launcher = sync.OnceValue(func() chan<- launch {
	launches := make(chan launch)
	go func() {
		runtime.LockOSThread()
		for l := range launches {
			l.err <- l.cmd.Start()
		}
	}()
	return launches
})

func startProcess(cmd *exec.Cmd) error {
	l := launch{cmd, make(chan error, 1)}
	launcher() <- l
	return <-l.err
}

// standsStill reports whether every thread of a process has been stopped (T in
// proc_pid_stat(5), after the name in parentheses).
func standsStill(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return true
	}
	for _, thread := range threads {
		stat, err := os.ReadFile(thread)
		if err != nil {
			continue // it has ended
		}
		if _, rest, ok := bytes.Cut(stat, []byte(") ")); ok && rest[0] != 'T' {
			return false
		}
	}
	return true
}
