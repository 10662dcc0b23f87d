package pace

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// The kinds of processes.
const (
	gateways = "gateway"
	roomSrvs = "room"
	redises  = "redis"
	others   = "other"
	driver   = "driver"
)

// kind returns as what a process counts, by its name.
func (p Process) kind() string {
	for _, kind := range []string{gateways, roomSrvs, redises} {
		if strings.HasPrefix(p.Name, kind) {
			return kind
		}
	}
	return others
}

// ParseProcess parses NAME=PID or NAME=PID@ADMIN, where ADMIN is host:port or a base URL.
func ParseProcess(text string) (Process, error) {
	name, rest, ok := strings.Cut(text, "=")
	id, admin, _ := strings.Cut(rest, "@")
	pid, err := strconv.Atoi(id)
	if !ok || name == "" || err != nil || pid < 1 {
		return Process{}, fmt.Errorf("process %q is not NAME=PID or NAME=PID@ADMIN", text)
	}
	if admin != "" && !strings.Contains(admin, "://") {
		admin = "http://" + admin
	}
	return Process{Name: name, PID: pid, Admin: admin}, nil
}

// usage is what the processes have used up to one moment, by kind.
type usage struct {
	at  time.Duration
	cpu map[string]time.Duration
	rss map[string]int64 // bytes
	// busy is the time that all cores of the machine have worked, for any process.
	busy time.Duration
}

// look reads the usage of the processes and of this one.
func look(processes []Process) (usage, error) {
	u := usage{at: now(), cpu: map[string]time.Duration{}, rss: map[string]int64{}}
	if len(processes) == 0 {
		return u, nil
	}
	u.busy = machineBusy()
	for _, p := range append([]Process{{Name: driver, PID: os.Getpid()}}, processes...) {
		kind := p.kind()
		if p.Name == driver {
			kind = driver
		}
		cpu, err := processCPU(p.PID)
		if errors.Is(err, errors.ErrUnsupported) {
			return usage{at: u.at}, nil // messages and latency can still be measured
		}
		if err != nil {
			return u, fmt.Errorf("CPU time of %s: %w", p.Name, err)
		}
		rss, err := processRSS(p.PID)
		if err != nil {
			return u, fmt.Errorf("memory of %s: %w", p.Name, err)
		}
		u.cpu[kind] += cpu
		u.rss[kind] += rss
	}
	return u, nil
}

// processRSS returns the resident memory of a process in bytes.
func processRSS(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(status), "VmRSS:")
	if !ok {
		return 0, fmt.Errorf("it has ended")
	}
	return number([]byte(strings.TrimSpace(rest))) << 10, nil
}

// machineBusy returns the CPU time of everything that runs on this machine, plus the time
// that a hypervisor gave to other machines while something here wanted it (steal, see
// proc_stat(5)). It returns 0 if that is unknown.
func machineBusy() time.Duration {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	var ticks int64
	for i, f := range strings.Fields(line) {
		// user nice system idle iowait irq softirq steal
		if i >= 1 && i <= 8 && i != 4 && i != 5 {
			ticks += number([]byte(f))
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// window is what happened between two calls of look.
type window struct {
	run       *run
	profiles  *profiles
	from, to  usage
	delivered int64
	bytes     int64
	sent      int64
}

// open begins a window.
func (r *run) open() (*window, error) {
	w := &window{run: r}
	var err error
	if w.profiles, err = r.profile(); err != nil {
		return nil, err
	}
	w.delivered, w.bytes, w.sent = -r.crowd.delivered.Load(), -r.crowd.bytes.Load(), -r.crowd.sent()
	w.from, err = look(r.cfg.Processes)
	return w, err
}

// close ends the window.
func (w *window) close() error {
	c := w.run.crowd
	var err error
	if w.to, err = look(w.run.cfg.Processes); err != nil {
		return err
	}
	w.delivered += c.delivered.Load()
	w.bytes += c.bytes.Load()
	w.sent += c.sent()
	return w.profiles.finish()
}

func (w *window) seconds() float64 { return (w.to.at - w.from.at).Seconds() }

// cpu returns the CPU time of a kind of processes in the window.
func (w *window) cpu(kind string) time.Duration { return w.to.cpu[kind] - w.from.cpu[kind] }

// servers returns the CPU time of the deployment in the window.
func (w *window) servers() (sum time.Duration) {
	for kind := range w.to.cpu {
		if kind != driver {
			sum += w.cpu(kind)
		}
	}
	return sum
}

// strangers returns how many cores were busy with processes that belong neither to the
// deployment nor to the driver.
func (w *window) strangers() float64 {
	own := w.servers() + w.cpu(driver)
	return max(0, (w.to.busy-w.from.busy-own).Seconds()/w.seconds())
}
