//go:build !linux

package cluster

import (
	"os/exec"
	"syscall"
)

// dieWithParent does nothing here: after a panic of a test its processes go on.
func dieWithParent() *syscall.SysProcAttr { return nil }

func startProcess(cmd *exec.Cmd) error { return cmd.Start() }

// standsStill cannot know that here. It returns true, since the process stops soon.
func standsStill(int) bool { return true }
