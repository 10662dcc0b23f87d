// Package origin decides which browser pages may use the service: the same rule
// for the WebSocket and for CORS on /v1.
package origin

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"unicode"
)

// Policy is the set of allowed origins. The page's own host is always allowed, and so is a
// request without Origin, which does not come from a page in a browser. The zero value allows
// nothing else.
type Policy struct {
	patterns []string // lower case
}

// Parse parses ALLOWED_ORIGINS, a list of patterns separated by commas. A pattern matches the
// origin's host, with its port if it has one (app.example.com, *.example.com, localhost:*),
// or, when it has a scheme, the whole origin (https://app.example.com). Wildcards are those of
// path.Match, case does not matter, and * allows every origin.
func Parse(list string) (*Policy, error) {
	p := new(Policy)
	for item := range strings.SplitSeq(list, ",") {
		pattern := strings.ToLower(strings.TrimSpace(item))
		if pattern == "" {
			continue
		}
		if err := checkPattern(pattern); err != nil {
			return nil, fmt.Errorf("%q: %w", strings.TrimSpace(item), err)
		}
		p.patterns = append(p.patterns, literalAddress(pattern))
	}
	return p, nil
}

// literalAddress escapes the brackets around an IPv6 address, so that path.Match does not take
// them for a class of characters.
func literalAddress(pattern string) string {
	before, rest, ok := strings.Cut(pattern, "[")
	inside, behind, closed := strings.Cut(rest, "]")
	if !ok || !closed || strings.HasSuffix(before, `\`) || !strings.Contains(inside, ":") {
		return pattern
	}
	return before + `\[` + inside + `\]` + behind
}

// hosts returns the ways to write an origin's host: browsers leave out the scheme's default
// port, other clients may not.
func hosts(scheme, host string) []string {
	port := map[string]string{"http": ":80", "https": ":443"}[scheme]
	if port == "" {
		return []string{host}
	}
	bare := strings.TrimSuffix(host, port)
	if bare == host && (&url.URL{Host: host}).Port() != "" {
		return []string{host}
	}
	return []string{bare, bare + port}
}

func checkPattern(pattern string) error {
	if _, err := path.Match(pattern, ""); err != nil {
		return fmt.Errorf("the pattern is malformed (an open bracket or a lone backslash)")
	}
	host := pattern
	if scheme, rest, ok := strings.Cut(pattern, "://"); ok {
		if host = rest; scheme == "" {
			return fmt.Errorf("the scheme is missing")
		}
	}
	switch {
	case host == "":
		return fmt.Errorf("the host is missing")
	case strings.ContainsAny(host, "/?#@ \t") && !strings.Contains(host, "["):
		return fmt.Errorf("an origin has a host, and a port unless the scheme's own is meant, but no path, query, user or blank")
	case strings.ContainsFunc(host, func(r rune) bool { return r > unicode.MaxASCII }):
		return fmt.Errorf("browsers send such a host in punycode (xn--…)")
	case !validPort(host):
		return fmt.Errorf("the port is not 1 to 65535 or a pattern")
	case pattern == "null":
		return fmt.Errorf("null is the origin of any sandboxed page and is never allowed")
	}
	return nil
}

// validPort reports whether host has a valid port, a wildcard instead of one, or none.
func validPort(host string) bool {
	colon := strings.LastIndexByte(host, ':')
	if colon < 0 || strings.HasSuffix(host, "]") || strings.ContainsAny(host[colon:], `*?[\`) {
		return true
	}
	port, err := strconv.ParseUint(host[colon+1:], 10, 16)
	return err == nil && port > 0
}

// Allows reports whether the page that sent r may use the service.
func (p *Policy) Allows(r *http.Request) bool {
	switch origins := r.Header.Values("Origin"); len(origins) {
	case 0:
		return true
	case 1:
		return p.AllowsOrigin(origins[0], r.Host)
	default:
		return false
	}
}

// AllowsOrigin reports whether a page of this origin may use the service at host.
func (p *Policy) AllowsOrigin(origin, host string) bool {
	u, ok := parse(origin)
	if !ok {
		return false
	}
	scheme := strings.ToLower(u.Scheme)
	for _, target := range hosts(scheme, strings.ToLower(u.Host)) {
		if target == strings.ToLower(host) {
			return true
		}
		for _, pattern := range p.patterns {
			if matches(pattern, target) || matches(pattern, scheme+"://"+target) {
				return true
			}
		}
	}
	return false
}

func matches(pattern, target string) bool {
	matched, err := path.Match(pattern, target)
	return matched && err == nil
}

// parse accepts what a browser sends: scheme, host and port, nothing else. "null" has neither
// scheme nor host.
func parse(origin string) (*url.URL, bool) {
	u, err := url.Parse(origin)
	if err != nil || u.Scheme == "" || u.Host == "" {
		return nil, false
	}
	plain := url.URL{Scheme: u.Scheme, Host: u.Host}
	return u, strings.EqualFold(plain.String(), origin)
}
