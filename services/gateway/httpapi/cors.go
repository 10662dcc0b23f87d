package httpapi

import "net/http"

// What pages of allowed origins may send and read.
const (
	corsMethods = "GET, POST, DELETE"
	corsHeaders = "Authorization, Content-Type"
	corsExposed = "Location, Retry-After"
	corsMaxAge  = "600" // s
)

// cors answers preflights, and adds CORS headers for the allowed origins only. A preflight
// gets everything that is allowed, whatever it asks for: the browser compares, and other
// clients write what they ask for in many ways. Credentials stay off: identities travel in
// Authorization, never in cookies.
func (a *api) cors(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Add("Vary", "Origin")
		origin := r.Header.Get("Origin")
		allowed := origin != "" && a.Origins.Allows(r)
		if allowed {
			h.Set("Access-Control-Allow-Origin", origin)
		}
		if origin == "" || r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
			if allowed {
				h.Set("Access-Control-Expose-Headers", corsExposed)
			}
			next.ServeHTTP(w, r)
			return
		}
		if allowed {
			h.Set("Access-Control-Allow-Methods", corsMethods)
			h.Set("Access-Control-Allow-Headers", corsHeaders)
			h.Set("Access-Control-Max-Age", corsMaxAge)
		}
		w.WriteHeader(http.StatusNoContent)
	})
}
