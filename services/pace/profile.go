package pace

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"runtime/pprof"
	"sync"
	"time"
)

// profiles fetches the profiles of the processes that have an admin port. That costs them
// a few percent of CPU, so take figures from runs without profiles.
type profiles struct {
	run     *run
	own     *os.File
	fetches sync.WaitGroup
	mu      sync.Mutex // guards errs
	errs    []error
}

// profile starts CPU profiles that are as long as the window.
func (r *run) profile() (*profiles, error) {
	if r.cfg.Profiles == "" {
		return nil, nil
	}
	if err := os.MkdirAll(r.cfg.Profiles, 0o755); err != nil {
		return nil, err
	}
	own, err := os.Create(r.profileName(driver, "cpu"))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(own); err != nil {
		own.Close()
		return nil, err
	}
	p := &profiles{run: r, own: own}
	seconds := int(math.Max(1, math.Floor(r.cfg.Window.Seconds())))
	if r.cfg.Shape.Kind == Join {
		seconds = 3 // about as long as the joins take
	}
	p.fetch("cpu", fmt.Sprintf("profile?seconds=%d", seconds))
	return p, nil
}

func (r *run) profileName(process, what string) string {
	return filepath.Join(r.cfg.Profiles, fmt.Sprintf("%s-%s-%s.pprof", r.cfg.Shape.Name, process, what))
}

// fetch starts to fetch a profile of every process, all at the same time.
func (p *profiles) fetch(what, path string) {
	for _, process := range p.run.cfg.Processes {
		if process.Admin == "" {
			continue
		}
		p.fetches.Go(func() {
			err := download(process.Admin+"/debug/pprof/"+path, p.run.profileName(process.Name, what))
			if err != nil {
				p.mu.Lock()
				p.errs = append(p.errs, fmt.Errorf("profile of %s: %w", process.Name, err))
				p.mu.Unlock()
			}
		})
	}
}

// finish waits for the CPU profiles, and fetches the profiles that describe one moment.
func (p *profiles) finish() error {
	if p == nil {
		return nil
	}
	pprof.StopCPUProfile()
	p.own.Close()
	p.fetches.Wait()
	for _, what := range []string{"heap", "allocs", "goroutine"} {
		p.fetch(what, what+"?gc=1") // gc: leave out garbage
	}
	p.fetches.Wait()
	return errors.Join(p.errs...)
}

func download(url, name string) error {
	client := &http.Client{Timeout: 5 * time.Minute}
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, resp.Body)
	return errors.Join(err, file.Close())
}
