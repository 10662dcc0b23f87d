package identity

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

var key = bytes.Repeat([]byte("k"), MinKeyBytes)

func signer(t testing.TB) *Signer {
	t.Helper()
	s, err := NewSigner(key, 0)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sign makes a token outside of Signer, as an attacker or another service would.
func sign(t testing.TB, method jwt.SigningMethod, key any, c jwt.MapClaims) string {
	t.Helper()
	token, err := jwt.NewWithClaims(method, c).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func in(d time.Duration) int64 { return time.Now().Add(d).Unix() }

func TestWhatMakeMadeVerifyAccepts(t *testing.T) {
	s := signer(t)
	token, made, err := s.Make("Zoë")
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^u_[A-Za-z0-9]{20,}$`).MatchString(made.UserID) || wire.CheckUserID(made.UserID) != nil {
		t.Errorf("user id %q", made.UserID)
	}
	got, err := s.Verify(token)
	if err != nil || got.UserID != made.UserID || got.Nickname != "Zoë" || !got.Expires.Equal(made.Expires) {
		t.Errorf("made %+v, verified %+v, %v", made, got, err)
	}
	if _, other, _ := s.Make("Zoë"); other.UserID == made.UserID {
		t.Error("two identities have one user id")
	}
}

func TestAnIdentityOfAnotherServiceWithTheKeyIsAccepted(t *testing.T) {
	token := sign(t, jwt.SigningMethodHS256, key, jwt.MapClaims{"sub": "alice@example.com", "exp": in(time.Hour), "role": "x"})
	if id, err := signer(t).Verify(token); err != nil || id.UserID != "alice@example.com" || id.Nickname != "" {
		t.Errorf("got %+v, %v", id, err)
	}
}

func TestAnIdentityLivesForItsTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := signer(t)
		time.Sleep(700 * time.Millisecond) // the token counts whole seconds
		token, id, err := s.Make("")
		if err != nil || time.Until(id.Expires) < DefaultTTL || time.Until(id.Expires) >= DefaultTTL+time.Second {
			t.Fatalf("expires in %v, %v", time.Until(id.Expires), err)
		}
		time.Sleep(DefaultTTL)
		if _, err := s.Verify(token); err != nil {
			t.Errorf("within its TTL: %v", err)
		}
		time.Sleep(time.Until(id.Expires))
		if _, err := s.Verify(token); wire.CodeOf(err) != wire.Unauthenticated || !strings.Contains(err.Error(), "expired") {
			t.Errorf("after: %v", err)
		}
	})
}

func TestVerifyRefuses(t *testing.T) {
	s := signer(t)
	valid := jwt.MapClaims{"sub": "u_1", "exp": in(time.Hour)}
	with := func(changes jwt.MapClaims) jwt.MapClaims {
		c := jwt.MapClaims{"sub": "u_1", "exp": in(time.Hour)}
		for k, v := range changes {
			if c[k] = v; v == nil {
				delete(c, k)
			}
		}
		return c
	}
	hs256 := func(changes jwt.MapClaims) string { return sign(t, jwt.SigningMethodHS256, key, with(changes)) }
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	good := hs256(nil)
	if _, err := s.Verify(good); err != nil {
		t.Fatal(err)
	}
	head, tail, _ := strings.Cut(good, ".")
	body, signature, _ := strings.Cut(tail, ".")
	for rule, token := range map[string]string{
		"nothing":              "",
		"no JWT":               "hello",
		"alg none":             sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, valid),
		"alg HS512":            sign(t, jwt.SigningMethodHS512, key, valid),
		"alg RS256":            sign(t, jwt.SigningMethodRS256, rsaKey, valid),
		"another key":          sign(t, jwt.SigningMethodHS256, bytes.Repeat([]byte("x"), 32), valid),
		"no signature":         head + "." + body + ".",
		"a changed signature":  head + "." + body + "." + strings.Map(func(r rune) rune { return 'A' }, signature),
		"a changed body":       head + "." + body + "x." + signature,
		"expired":              hs256(jwt.MapClaims{"exp": in(-time.Second)}),
		"no exp":               hs256(jwt.MapClaims{"exp": nil}),
		"exp in digits":        hs256(jwt.MapClaims{"exp": fmt.Sprint(in(time.Hour))}),
		"exp in another case":  hs256(jwt.MapClaims{"exp": nil, "Exp": in(time.Hour)}),
		"sub in another case":  hs256(jwt.MapClaims{"sub": nil, "Sub": "u_1"}),
		"exp of a wrong type":  hs256(jwt.MapClaims{"exp": "tomorrow"}),
		"not valid yet":        hs256(jwt.MapClaims{"nbf": in(time.Hour)}),
		"no sub":               hs256(jwt.MapClaims{"sub": nil}),
		"empty sub":            hs256(jwt.MapClaims{"sub": ""}),
		"sub of a wrong type":  hs256(jwt.MapClaims{"sub": 7}),
		"sub system":           hs256(jwt.MapClaims{"sub": wire.SystemUser}),
		"sub too long":         hs256(jwt.MapClaims{"sub": strings.Repeat("u", wire.MaxUserIDLen+1)}),
		"sub with a newline":   hs256(jwt.MapClaims{"sub": "a\nb"}),
		"nickname too long":    hs256(jwt.MapClaims{"nickname": strings.Repeat("n", wire.MaxNicknameLen+1)}),
		"nickname wrong type":  hs256(jwt.MapClaims{"nickname": []int{1}}),
		"nickname with escape": hs256(jwt.MapClaims{"nickname": "a\x1b[31m"}),
		"too large":            hs256(jwt.MapClaims{"pad": strings.Repeat("p", MaxTokenBytes)}),
	} {
		if id, err := s.Verify(token); wire.CodeOf(err) != wire.Unauthenticated {
			t.Errorf("%s: got %+v, %v", rule, id, err)
		}
	}
}

func TestMakeRefusesANicknameThatBreaksTheRules(t *testing.T) {
	s := signer(t)
	for _, nickname := range []string{strings.Repeat("é", wire.MaxNicknameLen+1), "a\x00b", "\xff"} {
		if _, _, err := s.Make(nickname); wire.CodeOf(err) != wire.BadRequest {
			t.Errorf("%q: %v", nickname, err)
		}
	}
	if _, _, err := s.Make(strings.Repeat("é", wire.MaxNicknameLen)); err != nil {
		t.Errorf("40 characters of two bytes: %v", err)
	}
}

func TestAShortKeyStopsTheStart(t *testing.T) {
	if _, err := NewSigner(key[:MinKeyBytes-1], 0); err == nil || !strings.Contains(err.Error(), "31 bytes, needs at least 32") {
		t.Errorf("got %v", err)
	}
	if _, err := NewSigner(key, -time.Hour); err == nil {
		t.Error("a negative TTL was accepted")
	}
}

func FuzzVerify(f *testing.F) {
	s := signer(f)
	// The same in every fuzzing process: it is the only token that may pass.
	token := sign(f, jwt.SigningMethodHS256, key, jwt.MapClaims{"sub": "u_1", "nickname": "Ann", "exp": 1 << 40})
	f.Add(token)
	f.Add("")
	f.Add("..")
	f.Add(sign(f, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, jwt.MapClaims{"sub": "u", "exp": in(time.Hour)}))
	f.Fuzz(func(t *testing.T, input string) {
		id, err := s.Verify(input)
		if err == nil {
			if input != token || wire.CheckUserID(id.UserID) != nil {
				t.Fatalf("accepted %q as %+v", input, id)
			}
			return
		}
		if refusal, ok := errors.AsType[*wire.Error](err); !ok || refusal.Code != wire.Unauthenticated {
			t.Fatalf("%q: %v is not UNAUTHENTICATED", input, err)
		}
	})
}

// raw signs a header and claims as they are.
func raw(t testing.TB, header, payload string) string {
	t.Helper()
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(header)) + "." + encode([]byte(payload))
	signature, err := jwt.SigningMethodHS256.Sign(text, key)
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + encode(signature)
}

func TestClaimsThatAreNoTextAreRefused(t *testing.T) {
	const header = `{"alg":"HS256","typ":"JWT"}`
	for name, c := range map[string]struct {
		header, sub string
		good        bool
	}{
		"text":                     {header, `z\u00e9\ud83d\ude00`, true},
		"half a pair":              {header, `a\ud83d`, false},
		"the other half":           {header, `a\udc00`, false},
		"not UTF-8":                {header, "a\xff", false},
		"a critical header":        {`{"alg":"HS256","crit":["x"],"x":1}`, "a", false},
		"a header of no relevance": {`{"alg":"HS256","kid":"1"}`, "a", true},
	} {
		token := raw(t, c.header, fmt.Sprintf(`{"sub":"%s","exp":%d}`, c.sub, in(time.Hour)))
		if _, err := signer(t).Verify(token); (err == nil) != c.good || err != nil && wire.CodeOf(err) != wire.Unauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
}
