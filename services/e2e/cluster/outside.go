package cluster

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/redisdb"
)

// program finds a program that is not part of the project. Debian installs haproxy outside
// users' PATH.
func program(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed, and the cluster cannot do without: `make deps` installs it on Debian and Ubuntu", name)
}

func (c *Cluster) defineRedis(deploy string) error {
	server, err := program("redis-server")
	if err != nil {
		return err
	}
	p, err := c.process("redis", false)
	if err != nil {
		return err
	}
	data := filepath.Join(c.dir, "redis")
	if err := os.Mkdir(data, 0o755); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(p.Addr())
	if err != nil {
		return err
	}
	p.argv = []string{filepath.Join(deploy, "start.sh"), data, server, filepath.Join(deploy, "redis.conf"), "--bind", host, "--port", port, "--dir", data}
	p.ready = func(ctx context.Context) error {
		rdb := redis.NewClient(redisdb.Tune(&redis.Options{Addr: p.Addr()}))
		defer rdb.Close()
		return rdb.Ping(ctx).Err() // also fails while Redis reads the append-only file
	}
	c.Redis = p
	return nil
}

// defineProxy defines an HAProxy with the configuration of make cluster, with this cluster's
// gateways as the servers of each backend.
func (c *Cluster) defineProxy(config string, settings []string) error {
	haproxy, err := program("haproxy")
	if err != nil {
		return err
	}
	p, err := c.process("haproxy", false)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	own := filepath.Join(c.dir, "haproxy.cfg")
	if err := os.WriteFile(own, []byte(c.withGateways(string(text))), 0o644); err != nil {
		return err
	}
	p.argv = []string{haproxy, "-db", "-f", own}
	p.env = append([]string{"HAPROXY_LISTEN=" + p.Addr()}, settings...)
	p.ready = p.answers(p.URL() + "/readyz")
	c.Proxy = p
	return nil
}

// withGateways puts this cluster's gateways in place of a configuration's servers.
func (c *Cluster) withGateways(text string) string {
	var own strings.Builder
	listed := false
	for line := range strings.Lines(text) {
		server := strings.HasPrefix(strings.TrimSpace(line), "server ")
		switch {
		case !server:
			own.WriteString(line)
		case !listed:
			for _, g := range c.Gateways {
				fmt.Fprintf(&own, "    server %s %s\n", g.Name, g.Addr())
			}
		}
		listed = server
	}
	return own.String()
}

// answers returns a check that url answers with 200.
func (p *Process) answers(url string) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		transport := &http.Transport{DisableKeepAlives: true} // and it ignores the environment's proxy settings
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", url, resp.Status)
		}
		return nil
	}
}
