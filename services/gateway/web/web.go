// Package web serves the demo page and the browser client, anteroom.js, from
// the binary itself. There is no build step: browsers get these files as they
// are. Pages of other origins may import the client.
//
//	/                 the page (lobby; #/room/<id> opens a room)
//	/anteroom.js      the browser client, which imports /client/*.js
//	/app.js …         the page's own modules, style and icon
package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed index.html style.css favicon.svg *.js client/*.js
var files embed.FS

// contentTypes is a table of our own because mime.TypeByExtension depends on files
// of the machine, and browsers do not run a module that has the wrong type.
var contentTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// contentSecurityPolicy forbids inline code and content from other hosts. It allows
// WebSockets by scheme because 'self' does not cover ws: in every browser.
const contentSecurityPolicy = "default-src 'self'; connect-src 'self' ws: wss:; " +
	"object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

type asset struct {
	body        []byte
	contentType string
	etag        string
}

// Handler returns a handler that serves the page at "/" and its files beside it, for
// GET and HEAD. Any other path is 404. Browsers revalidate each file by its ETag, so
// the next page load gets the files of a new binary.
func Handler() http.Handler {
	assets, err := load(files)
	if err != nil {
		panic(err) // the embedded files are wrong, which the tests of this package detect
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		setSecurityHeaders(w.Header())
		file, ok := assets[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Content-Type", file.contentType)
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("ETag", file.etag)
		if isClient(r.URL.Path) {
			// Modules are fetched with CORS. These are public, and no cookie goes with them.
			w.Header().Set("Access-Control-Allow-Origin", "*")
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file.body))
	})
}

// load reads every file into memory, keyed by the path it is served at.
func load(fsys fs.FS) (map[string]asset, error) {
	assets := make(map[string]asset)
	err := fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		body, err := fs.ReadFile(fsys, name)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		contentType, ok := contentTypes[path.Ext(name)]
		if !ok {
			return fmt.Errorf("no content type for %s", name)
		}
		sum := sha256.Sum256(body)
		assets[servedAt(name)] = asset{body, contentType, `"` + hex.EncodeToString(sum[:16]) + `"`}
		return nil
	})
	return assets, err
}

func servedAt(name string) string {
	if name == "index.html" {
		return "/"
	}
	return "/" + name
}

// isClient reports whether the path is part of the browser client and not of the page.
func isClient(path string) bool {
	return path == "/anteroom.js" || strings.HasPrefix(path, "/client/")
}

func setSecurityHeaders(h http.Header) {
	h.Set("Content-Security-Policy", contentSecurityPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
}
