package sim

import (
	"crypto/sha1"
	"encoding/hex"
	"strings"
	"sync"

	"github.com/alicebob/miniredis/v2/server"
)

// parsed holds the texts of all scripts that any simulation of this process has loaded.
var parsed sync.Map

// scripts holds the scripts that were loaded into one embedded store. The store would parse
// the argument of SCRIPT LOAD in each simulation again, which took a fifth of the time of all
// simulations, but compiles the argument of EVAL only once for all of them. So a script that
// an earlier simulation has loaded is only noted here, and run by its text with EVAL.
type scripts struct {
	ran func(args []string) // called with the keys and arguments of a script before it runs

	mu    sync.Mutex
	texts map[string]string // by sha
}

// hook returns a function that sees each command before the store does, and reports whether
// it has carried the command out itself.
func (s *scripts) hook(srv *server.Server) server.Hook {
	return func(c *server.Peer, cmd string, args ...string) bool {
		if (cmd == "EVAL" || cmd == "EVALSHA") && len(args) > 1 {
			s.ran(args[1:])
		}
		switch {
		case cmd == "SCRIPT" && len(args) == 2 && strings.EqualFold(args[0], "load"):
			text := args[1]
			if _, known := parsed.LoadOrStore(text, true); !known {
				return false // the store checks that it is Lua
			}
			c.WriteBulk(s.add(text))
			return true
		case cmd == "EVALSHA" && len(args) > 1:
			text, ok := s.text(args[0])
			if ok {
				srv.Dispatch(c, append([]string{"EVAL", text}, args[1:]...))
			}
			return ok
		}
		return false
	}
}

func (s *scripts) add(text string) (sha string) {
	sum := sha1.Sum([]byte(text))
	sha = hex.EncodeToString(sum[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.texts == nil {
		s.texts = make(map[string]string)
	}
	s.texts[sha] = text
	return sha
}

func (s *scripts) text(sha string) (text string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, ok = s.texts[sha]
	return text, ok
}
