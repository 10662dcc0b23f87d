// Package identity makes and verifies the tokens that prove who a user is: JWTs
// signed with HS256 whose `sub` is the user's id and whose optional `nickname` is
// the name to show. A service that has the key can make them for its own users;
// `exp` is required.
package identity

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// Limits of keys and tokens.
const (
	MinKeyBytes   = 32      // RFC 7518, 3.2: a key as long as HS256's output
	MaxTokenBytes = 4 << 10 // longer tokens are refused unread
	DefaultTTL    = 24 * time.Hour
)

// Identity says who a user is.
type Identity struct {
	UserID   string
	Nickname string // may be empty
	Expires  time.Time
}

// Signer makes and verifies identities with one key.
type Signer struct {
	key    []byte
	ttl    time.Duration
	parser *jwt.Parser
}

type claims struct {
	Nickname string `json:"nickname,omitempty"`
	jwt.RegisteredClaims
}

// NewSigner returns a Signer. The key must have at least 32 bytes. ttl is how long the
// identities live that the Signer makes, at least 1 s; 0 means 24 h.
func NewSigner(key []byte, ttl time.Duration) (*Signer, error) {
	if len(key) < MinKeyBytes {
		return nil, fmt.Errorf("identity key has %d bytes, needs at least %d (openssl rand -base64 48 makes one)", len(key), MinKeyBytes)
	}
	if ttl == 0 {
		ttl = DefaultTTL
	}
	if ttl < time.Second {
		return nil, fmt.Errorf("identity TTL is %v, needs at least 1s", ttl)
	}
	return &Signer{key: key, ttl: ttl, parser: jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
		jwt.WithExpirationRequired(),
		jwt.WithStrictDecoding(),
	)}, nil
}

// Make makes a new anonymous user. nickname may be empty. The error is BAD_REQUEST if nickname
// breaks the rules of nicknames.
func (s *Signer) Make(nickname string) (token string, id Identity, err error) {
	if err := wire.CheckText("nickname", nickname, wire.MaxNicknameLen); err != nil {
		return "", Identity{}, err
	}
	now := time.Now()
	id = Identity{
		UserID:   "u_" + rand.Text(), // 26 characters, 130 bits
		Nickname: nickname,
		Expires:  now.Add(s.ttl + time.Second - 1).Truncate(time.Second), // JWT counts seconds: not less than ttl
	}
	token, err = jwt.NewWithClaims(jwt.SigningMethodHS256, claims{
		Nickname: nickname,
		RegisteredClaims: jwt.RegisteredClaims{
			Subject:   id.UserID,
			IssuedAt:  jwt.NewNumericDate(now),
			ExpiresAt: jwt.NewNumericDate(id.Expires),
		},
	}).SignedString(s.key)
	if err != nil {
		return "", Identity{}, fmt.Errorf("sign identity: %w", err)
	}
	return token, id, nil
}

// Verify returns the identity that token proves. Any error is UNAUTHENTICATED.
func (s *Signer) Verify(token string) (Identity, error) {
	if token == "" {
		return Identity{}, wire.Errorf(wire.Unauthenticated, "an identity is needed")
	}
	if len(token) > MaxTokenBytes {
		return Identity{}, wire.Errorf(wire.Unauthenticated, "the identity is longer than %d bytes", MaxTokenBytes)
	}
	c := jwt.MapClaims{} // a struct would match names in any case
	parsed, err := s.parser.ParseWithClaims(token, c, func(*jwt.Token) (any, error) { return s.key, nil })
	if errors.Is(err, jwt.ErrTokenExpired) {
		return Identity{}, wire.Errorf(wire.Unauthenticated, "the identity has expired")
	}
	if err != nil { // the reason would only help an attacker
		return Identity{}, wire.Errorf(wire.Unauthenticated, "the identity is not valid")
	}
	if _, critical := parsed.Header["crit"]; critical { // RFC 7515, 4.1.11
		return Identity{}, wire.Errorf(wire.Unauthenticated, "the identity asks for what is not known here")
	}
	if !isText(token) {
		return Identity{}, wire.Errorf(wire.Unauthenticated, "the identity has claims that are no text")
	}
	user, _ := c["sub"].(string)
	if err := wire.CheckUserID(user); err != nil {
		return Identity{}, wire.Errorf(wire.Unauthenticated, "the identity's sub is no user id")
	}
	nickname, ok := c["nickname"].(string)
	if !ok && c["nickname"] != nil || wire.CheckText("nickname", nickname, wire.MaxNicknameLen) != nil {
		return Identity{}, wire.Errorf(wire.Unauthenticated, "the identity's nickname breaks the rules of nicknames")
	}
	expires, _ := c.GetExpirationTime() // the parser requires one
	return Identity{UserID: user, Nickname: nickname, Expires: expires.Time}, nil
}

// isText reports whether everything that a token claims is valid text. encoding/json replaces
// what is not with U+FFFD, so that users with different ids would become one.
func isText(token string) bool {
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	return err == nil && utf8.Valid(text) && !wire.HalfPair(text)
}
