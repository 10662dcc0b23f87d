package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// pollEvery is how often a condition is checked.
const pollEvery = 20 * time.Millisecond

// pausePatience bounds how long the threads of a process may take to stop.
const pausePatience = 5 * time.Second

// Process is one process of a cluster. It keeps its address when it is stopped and started
// again.
type Process struct {
	Name string

	addr, admin string
	argv, env   []string
	log         string                          // file that its output is appended to
	ready       func(ctx context.Context) error // nil once it serves

	mu  sync.Mutex // guards what follows
	cmd *exec.Cmd  // nil while it does not run
	// Of the last start. ended is closed when the process is gone; state is set before that.
	ended chan struct{}
	state *os.ProcessState
}

// Addr returns the address, host:port, at which the process serves.
func (p *Process) Addr() string { return p.addr }

// URL returns Addr as an HTTP URL.
func (p *Process) URL() string { return "http://" + p.addr }

// AdminAddr returns the address, host:port, of metrics, health and pprof; empty for HAProxy
// and Redis.
func (p *Process) AdminAddr() string { return p.admin }

// AdminURL returns AdminAddr as an HTTP URL.
func (p *Process) AdminURL() string { return "http://" + p.admin }

// Start starts the process and waits until it is ready or ctx ends.
func (p *Process) Start(ctx context.Context) error {
	ended, err := p.launch()
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	var last error
	for {
		if last = p.ready(ctx); last == nil {
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("start %s: it ended: %s\n%s", p.Name, p.status(), p.LogTail(tailBytes))
		case <-ctx.Done():
			return fmt.Errorf("start %s: not ready: %w", p.Name, last)
		case <-time.After(pollEvery):
		}
	}
}

func (p *Process) launch() (ended chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return nil, errors.New("it runs already")
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has a descriptor of its own
	cmd := exec.Command(p.argv[0], p.argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(baseEnv(), p.env...)
	cmd.SysProcAttr = dieWithParent()
	if err := startProcess(cmd); err != nil {
		return nil, err
	}
	ended = make(chan struct{})
	p.cmd, p.ended, p.state = cmd, ended, nil
	go func() {
		_ = cmd.Wait() // ProcessState has everything that the error says
		p.mu.Lock()
		p.cmd, p.state = nil, cmd.ProcessState
		p.mu.Unlock()
		close(ended)
	}()
	return ended, nil
}

// baseEnv returns the environment of the processes, without settings of the one who runs the
// tests.
func baseEnv() []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "GOCOVERDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// PID returns the process's id; 0 while it does not run.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Running reports whether the process runs, paused or not.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd != nil
}

// Signal sends a signal to the running process.
func (p *Process) Signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return fmt.Errorf("signal %s: it does not run", p.Name)
	}
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("signal %s: %w", p.Name, err)
	}
	return nil
}

// Terminate asks the process to stop, as an operator does; Wait tells how it went.
func (p *Process) Terminate() error { return p.Signal(syscall.SIGTERM) }

// Pause stops the process (SIGSTOP) without closing its connections; Resume continues it. On
// a busy machine the threads stop one by one: when Pause returns, all have stopped.
func (p *Process) Pause() error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		p.mu.Lock()
		stands := p.cmd == nil || standsStill(p.cmd.Process.Pid)
		p.mu.Unlock()
		if stands {
			return nil
		}
		if time.Since(began) > pausePatience {
			return fmt.Errorf("pause %s: it runs on", p.Name)
		}
	}
}

// Resume ends Pause.
func (p *Process) Resume() error { return p.Signal(syscall.SIGCONT) }

// Kill ends the process at once, as a crash does, and waits until it is gone. It is not an
// error if the process does not run.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil && p.Running() && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	p.mu.Lock()
	ended := p.ended
	p.mu.Unlock()
	if ended != nil {
		<-ended
	}
	return nil
}

// Stop calls Terminate and Wait. If ctx ends first, it kills the process.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.Terminate(); err != nil {
		return err
	}
	err := p.Wait(ctx)
	if ctx.Err() != nil {
		err = errors.Join(err, p.Kill())
	}
	return err
}

// Restart calls Stop and Start.
func (p *Process) Restart(ctx context.Context) error {
	if err := p.Stop(ctx); err != nil {
		return err
	}
	return p.Start(ctx)
}

// Wait waits for the end of the process, and returns nil if its status was 0.
func (p *Process) Wait(ctx context.Context) error {
	p.mu.Lock()
	ended := p.ended
	p.mu.Unlock()
	if ended == nil {
		return fmt.Errorf("wait for %s: it was never started", p.Name)
	}
	select {
	case <-ended:
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of %s: %w", p.Name, ctx.Err())
	}
	if status := p.status(); status != "exit status 0" {
		return fmt.Errorf("%s ended with %s", p.Name, status)
	}
	return nil
}

func (p *Process) status() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state.String()
}

// LogTail returns the end of what the process has written in all its runs.
func (p *Process) LogTail(bytes int64) string {
	file, err := os.Open(p.log)
	if err != nil {
		return "(" + err.Error() + ")"
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > bytes {
		if _, err := file.Seek(-bytes, io.SeekEnd); err != nil {
			return "(" + err.Error() + ")"
		}
	}
	tail, err := io.ReadAll(file)
	if err != nil {
		return "(" + err.Error() + ")"
	}
	return string(tail)
}
