package sim

import (
	"crypto/sha1"
	"encoding/hex"
	"strings"
	"sync"

	"github.com/alicebob/miniredis/v2/server"
)

// parsed holds the texts of the scripts that some simulation has loaded.
var parsed sync.Map

// scripts are those that one embedded store has been given. The store parses what SCRIPT
// LOAD brings anew in each simulation, which was a fifth of all their time, and compiles
// what EVAL brings once for all. So a script that an earlier simulation has loaded is only
// noted here, and run by its text.
type scripts struct {
	mu    sync.Mutex
	texts map[string]string // by sha
}

// hook sees each command before the store, and reports whether it was carried out.
func (s *scripts) hook(srv *server.Server) server.Hook {
	return func(c *server.Peer, cmd string, args ...string) bool {
		switch {
		case cmd == "SCRIPT" && len(args) == 2 && strings.EqualFold(args[0], "load"):
			text := args[1]
			if _, known := parsed.LoadOrStore(text, true); !known {
				return false // the store says whether it is Lua at all
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
