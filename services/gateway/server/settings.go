package server

import (
	"cmp"
	"fmt"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/services/gateway"
	"github.com/anteroom-chat/anteroom/services/gateway/httpapi"
	"github.com/anteroom-chat/anteroom/services/gateway/identity"
	"github.com/anteroom-chat/anteroom/services/gateway/origin"
)

// maxRate bounds rates. A higher one would limit nothing; 0 means no limit.
const maxRate = 1_000_000

// Settings holds how a gateway behaves, wherever it runs: flags, and environment variables of
// the same name.
type Settings struct {
	IdentityTTL    time.Duration `help:"How long an anonymous identity lives, at least 1s." default:"24h" env:"IDENTITY_TTL"`
	AllowedOrigins string        `help:"Browser origins besides the page's own host: host patterns or whole origins, comma-separated; * allows all. None by default." placeholder:"app.example.com,*.example.org" env:"ALLOWED_ORIGINS"`
	MaxFrameBytes  int           `help:"Largest frame of a client, in bytes, 256 to 1048576." default:"16384" env:"MAX_FRAME_BYTES"`
	MessageRate    float64       `help:"Messages per second that a session may sustain; 0 is no limit." default:"20" env:"MESSAGE_RATE"`
	MessageBurst   int           `help:"Messages that a session may send at once." default:"40" env:"MESSAGE_BURST"`
	FrameRate      float64       `help:"PINGs, control frames, fragments of less than 1 KiB and refused messages per second that a socket may sustain; more are read with a delay. 0 is no limit." default:"100" env:"FRAME_RATE"`
	FrameBurst     int           `help:"How many of these a socket may send at once." default:"50" env:"FRAME_BURST"`
	MaxSockets     int           `help:"WebSockets open at once at this gateway; also at most 90 % of the files that the process may open. 0 is no limit of its own." default:"100000" env:"MAX_SOCKETS"`
	ConnectRate    float64       `help:"WebSockets per second that a client address may open and sustain; 0 is no limit." default:"0" env:"CONNECT_RATE"`
	ConnectBurst   int           `help:"WebSockets that a client address may open at once; 0 is --connect-rate, rounded up." default:"0" env:"CONNECT_BURST"`
	WalkIn         bool          `help:"Let a join without a permit take a free seat; on by default." default:"true" negatable:"" env:"WALK_IN"`
	HTTPRate       float64       `name:"http-rate" help:"Requests to /v1 per second that a client address may sustain; 0 is no limit." default:"0" env:"HTTP_RATE"`
	HTTPBurst      int           `name:"http-burst" help:"Requests to /v1 that a client address may send at once; 0 is --http-rate, rounded up." default:"0" env:"HTTP_BURST"`
	TrustProxy     bool          `help:"Trust the client address that the proxy in front writes to X-Forwarded-For; off by default." env:"TRUST_PROXY"`
	Partitions     int           `help:"Number of partitions that rooms hash to, 1 to 4096; all processes must agree." default:"64" env:"PARTITIONS"`
}

// Check returns an error for settings that no gateway could start with.
func (s *Settings) Check() error {
	switch {
	case s.MaxFrameBytes < 256 || s.MaxFrameBytes > 1<<20:
		return fmt.Errorf("--max-frame-bytes is %d, outside 256 to 1048576", s.MaxFrameBytes)
	case s.IdentityTTL < time.Second:
		return fmt.Errorf("--identity-ttl is %v, below 1s", s.IdentityTTL)
	}
	if _, err := origin.Parse(s.AllowedOrigins); err != nil {
		return fmt.Errorf("--allowed-origins: %w", err)
	}
	return cmp.Or(
		s.layout().Check(),
		checkRate("--message-rate", s.MessageRate), checkRate("--frame-rate", s.FrameRate),
		checkRate("--connect-rate", s.ConnectRate), checkRate("--http-rate", s.HTTPRate),
		checkCount("--max-sockets", s.MaxSockets), checkBurst("--message-burst", s.MessageBurst, s.MessageRate), checkBurst("--frame-burst", s.FrameBurst, s.FrameRate),
		checkCount("--connect-burst", s.ConnectBurst), checkCount("--http-burst", s.HTTPBurst),
	)
}

func (s *Settings) layout() roomlog.Layout { return roomlog.Layout{Partitions: s.Partitions} }

func checkCount(flag string, n int) error {
	if n >= 0 {
		return nil
	}
	return fmt.Errorf("%s is %d, below 0", flag, n)
}

// checkBurst requires a burst of at least 1 if there is a rate.
func checkBurst(flag string, n int, perSecond float64) error {
	if perSecond > 0 && n == 0 {
		return fmt.Errorf("%s is 0, below 1", flag)
	}
	return checkCount(flag, n)
}

// checkRate accepts only finite rates: a flag can also hold NaN or infinity.
func checkRate(flag string, perSecond float64) error {
	if perSecond >= 0 && perSecond <= maxRate {
		return nil
	}
	return fmt.Errorf("%s is %v, outside 0 to %d", flag, perSecond, maxRate)
}

// Gateway translates the settings. The caller adds Redis and metrics.
func (s *Settings) Gateway(id, identityKey string) (gateway.Config, error) {
	signer, err := identity.NewSigner([]byte(identityKey), s.IdentityTTL)
	if err != nil {
		return gateway.Config{}, fmt.Errorf("--identity-key: %w", err)
	}
	origins, err := origin.Parse(s.AllowedOrigins)
	if err != nil {
		return gateway.Config{}, fmt.Errorf("--allowed-origins: %w", err)
	}
	return gateway.Config{
		ID: id, Layout: s.layout(), Identities: signer, Origins: origins,
		MaxFrameBytes: s.MaxFrameBytes, MessageRate: s.MessageRate, MessageBurst: s.MessageBurst, WalkIn: s.WalkIn,
		FrameRate: s.FrameRate, FrameBurst: s.FrameBurst, MaxSockets: s.sockets(openFiles()),
	}, nil
}

// sockets returns how many WebSockets a process accepts that may open this many files. Some
// files are left for requests, Redis and the room services, which would fail otherwise.
func (s *Settings) sockets(files int) int {
	most := max(1, files/10*9)
	if s.MaxSockets == 0 || s.MaxSockets > most {
		return most
	}
	return s.MaxSockets
}

// Rate returns the limit of each client address for /v1.
func (s *Settings) Rate() httpapi.RateLimit {
	return httpapi.RateLimit{PerSecond: s.HTTPRate, Burst: s.HTTPBurst, TrustProxy: s.TrustProxy}
}

// Connects returns the limit of each client address for WebSockets.
func (s *Settings) Connects() httpapi.RateLimit {
	return httpapi.RateLimit{PerSecond: s.ConnectRate, Burst: s.ConnectBurst, TrustProxy: s.TrustProxy}
}
