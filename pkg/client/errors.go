package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/coder/websocket"
)

// CloseAbnormal is the code of a connection that ended without a close frame. It is
// never on the wire (RFC 6455, section 7.4.1).
const CloseAbnormal wire.CloseCode = 1006

var (
	// ErrClosed is what a Member answers with after Leave, Close or Abort.
	ErrClosed = errors.New("client: the member has left")
	// ErrUnconfirmed marks a message that was written, and neither echoed nor refused:
	// it may have been delivered.
	ErrUnconfirmed = errors.New("client: the message may have been delivered")
	// ErrOutboxFull is Post's answer when too many messages wait for their echo.
	ErrOutboxFull = errors.New("client: too many messages wait for their echo")
	// ErrProtocol marks an answer that breaks the contract: the other side is no
	// Anteroom service, or one of another version.
	ErrProtocol = errors.New("client: the server broke the protocol")
	// ErrAway is Leave's answer while a Member is not connected. It has ended, and its
	// seat is free when the lease ends (wire.Lease).
	ErrAway = errors.New("client: not connected")
)

// StatusError is an HTTP answer that is no success. It unwraps to Err.
type StatusError struct {
	Status     int           // HTTP status
	RetryAfter time.Duration // how long to wait before the next try, a day at most; 0 when not said
	Err        *wire.Error   // never nil; made from Status where the body is no problem document
}

func (e *StatusError) Error() string { return fmt.Sprintf("HTTP %d: %v", e.Status, e.Err) }

// Unwrap answers with the refusal.
func (e *StatusError) Unwrap() error { return e.Err }

// CloseError is the end of a connection.
type CloseError struct {
	Code   wire.CloseCode // CloseAbnormal when no close frame came
	Reason string
	Err    error // the transport's error, where Code is CloseAbnormal; may be nil
}

func (e *CloseError) Error() string {
	text := fmt.Sprintf("closed with %d", uint16(e.Code))
	if e.Reason != "" {
		text += " " + e.Reason
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap answers with the transport's error.
func (e *CloseError) Unwrap() error { return e.Err }

// JoinError is a join that the service did not confirm. It unwraps to both fields.
type JoinError struct {
	Err   *wire.Error // from the ERROR frame, or else from the close code; may be nil
	Close *CloseError // nil where the connection stayed open
}

func (e *JoinError) Error() string {
	switch {
	case e.Close == nil:
		return "join refused: " + e.Err.Error()
	case e.Err == nil:
		return "join failed: " + e.Close.Error()
	}
	return fmt.Sprintf("join refused: %v (%v)", e.Err, e.Close)
}

// Unwrap answers with the refusal and the close, those of them that there were.
func (e *JoinError) Unwrap() []error {
	var all []error
	if e.Err != nil {
		all = append(all, e.Err)
	}
	if e.Close != nil {
		all = append(all, e.Close)
	}
	return all
}

// newJoinError fills in the refusal that a close code stands for: 4409 is ROOM_FULL.
func newJoinError(refusal *wire.Error, end *CloseError) *JoinError {
	if refusal == nil && end != nil {
		if code := wire.Code(end.Code.String()); code.Known() {
			refusal = wire.Errorf(code, "the connection was closed with %d", uint16(end.Code))
		}
	}
	return &JoinError{Err: refusal, Close: end}
}

// transient reports whether the same attempt can succeed later without the
// application doing something else first.
func transient(err error) bool {
	if errors.Is(err, ErrProtocol) {
		return false
	}
	if e, ok := errors.AsType[*StatusError](err); ok {
		return e.Status == http.StatusTooManyRequests || e.Status >= 500
	}
	if e, ok := errors.AsType[*wire.Error](err); ok {
		return e.Code.Translate().Close.Retryable()
	}
	if e, ok := errors.AsType[*CloseError](err); ok {
		return e.Code.Retryable()
	}
	return true
}

// retryAfter is what the service asked to wait, 0 when it did not.
func retryAfter(err error) time.Duration {
	if e, ok := errors.AsType[*StatusError](err); ok {
		return e.RetryAfter
	}
	return 0
}

func newCloseError(err error) *CloseError {
	if e, ok := errors.AsType[websocket.CloseError](err); ok {
		return &CloseError{Code: wire.CloseCode(e.Code), Reason: e.Reason}
	}
	if errors.Is(err, websocket.ErrMessageTooBig) {
		return &CloseError{Code: wire.CloseTooBig, Err: err}
	}
	return &CloseError{Code: CloseAbnormal, Err: err}
}

// newStatusError reads an answer that is no success; body may be cut off.
func newStatusError(resp *http.Response, body []byte) *StatusError {
	e := &StatusError{Status: resp.StatusCode, RetryAfter: parseRetryAfter(resp.Header.Get("Retry-After"))}
	var problem struct {
		Title  string    `json:"title"`
		Detail string    `json:"detail"`
		Code   wire.Code `json:"code"`
	}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if kind == "application/problem+json" && json.Unmarshal(body, &problem) == nil {
		if problem.Detail == "" {
			problem.Detail = problem.Title
		}
		e.Err = wire.Errorf(problem.Code, "%s", problem.Detail)
		if !problem.Code.Known() {
			e.Err.Code = codeOfStatus(resp.StatusCode)
		}
		return e
	}
	e.Err = wire.Errorf(codeOfStatus(resp.StatusCode), "the answer is no problem document")
	return e
}

// codeOfStatus reads the answers of those who stand between: load balancers, proxies.
// Their 404 says nothing about a room, so it is not ROOM_NOT_FOUND.
func codeOfStatus(status int) wire.Code {
	switch status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return wire.BadRequest
	case http.StatusUnauthorized:
		return wire.Unauthenticated
	case http.StatusForbidden:
		return wire.Forbidden
	case http.StatusTooManyRequests:
		return wire.RateLimited
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return wire.Unavailable
	}
	return wire.Internal
}

// maxRetryAfter bounds what a server may ask to wait: it is a slip, or will not be true
// for so long.
const maxRetryAfter = 24 * time.Hour

// parseRetryAfter reads seconds or a date (RFC 9110, section 10.2.3).
func parseRetryAfter(s string) time.Duration {
	seconds, err := strconv.ParseInt(s, 10, 64)
	if err == nil || errors.Is(err, strconv.ErrRange) { // which comes with the nearest number
		return time.Duration(max(0, min(seconds, int64(maxRetryAfter/time.Second)))) * time.Second
	}
	if date, err := http.ParseTime(s); err == nil {
		return max(0, min(time.Until(date), maxRetryAfter))
	}
	return 0
}
