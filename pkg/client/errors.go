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

// CloseAbnormal is the code of a connection that ended without a close frame. It is never
// sent (RFC 6455, section 7.4.1).
const CloseAbnormal wire.CloseCode = 1006

var (
	// ErrClosed is returned by a Member after Leave, Close or Abort.
	ErrClosed = errors.New("client: the member has left")
	// ErrUnconfirmed marks a message that was written but neither echoed nor refused: it may
	// have been delivered.
	ErrUnconfirmed = errors.New("client: the message may have been delivered")
	// ErrOutboxFull is returned by Post when too many messages wait for their echo.
	ErrOutboxFull = errors.New("client: too many messages wait for their echo")
	// ErrProtocol marks a response that breaks the contract: the other side is not an
	// Anteroom service, or one of another version.
	ErrProtocol = errors.New("client: the server broke the protocol")
	// ErrAway is returned by Leave if the Member is not connected. The Member has ended, and
	// its seat is free when the lease ends (wire.Lease).
	ErrAway = errors.New("client: not connected")
)

// StatusError is an HTTP response that is not a success. It unwraps to Err.
type StatusError struct {
	Status     int           // HTTP status
	RetryAfter time.Duration // how long to wait before the next attempt, at most a day; 0 if the service did not say
	Err        *wire.Error   // never nil; made from Status if the body is not a problem document
}

func (e *StatusError) Error() string { return fmt.Sprintf("HTTP %d: %v", e.Status, e.Err) }

// Unwrap returns the refusal.
func (e *StatusError) Unwrap() error { return e.Err }

// CloseError is the end of a connection.
type CloseError struct {
	Code   wire.CloseCode // CloseAbnormal if no close frame came
	Reason string
	Err    error // the transport's error if Code is CloseAbnormal; may be nil
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

// Unwrap returns the transport's error.
func (e *CloseError) Unwrap() error { return e.Err }

// JoinError is the error of a join that the service did not confirm. It unwraps to both
// fields.
type JoinError struct {
	Err   *wire.Error // from the ERROR frame, or else from the close code; may be nil
	Close *CloseError // nil if the connection stayed open
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

// Unwrap returns those of the refusal and the close that are not nil.
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

// newJoinError makes a JoinError. If there is no refusal, it derives one from the close code:
// 4409 means ROOM_FULL.
func newJoinError(refusal *wire.Error, end *CloseError) *JoinError {
	if refusal == nil && end != nil {
		if code := wire.Code(end.Code.String()); code.Known() {
			refusal = wire.Errorf(code, "the connection was closed with %d", uint16(end.Code))
		}
	}
	return &JoinError{Err: refusal, Close: end}
}

// transient reports whether the same attempt can succeed later without the application doing
// something first.
func transient(err error) bool {
	if errors.Is(err, ErrProtocol) {
		return false
	}
	_, overHTTP := errors.AsType[*StatusError](err)
	if e, ok := errors.AsType[*wire.Error](err); ok {
		// Over HTTP, RATE_LIMITED is about the client's address and passes. On a socket, it means that
		// this session sent too much for too long.
		return overHTTP && e.Code == wire.RateLimited || e.Code.Translate().Close.Retryable()
	}
	if e, ok := errors.AsType[*CloseError](err); ok {
		return e.Code.Retryable()
	}
	return true
}

// retryAfter returns how long the service asked the client to wait, or 0 if it did not.
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

// newStatusError makes a StatusError of a response that is not a success. body may be
// truncated.
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

// codeOfStatus returns the code for a response that is not from the service but from a load
// balancer or proxy in between. Their 404 says nothing about a room, so it is not
// ROOM_NOT_FOUND.
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

// maxRetryAfter limits how long a server may ask the client to wait: a longer time is a
// mistake, or will not hold for so long.
const maxRetryAfter = 24 * time.Hour

// parseRetryAfter parses seconds or a date (RFC 9110, section 10.2.3).
func parseRetryAfter(s string) time.Duration {
	seconds, err := strconv.ParseInt(s, 10, 64)
	if err == nil || errors.Is(err, strconv.ErrRange) { // ErrRange comes with the nearest number
		return time.Duration(max(0, min(seconds, int64(maxRetryAfter/time.Second)))) * time.Second
	}
	if date, err := http.ParseTime(s); err == nil {
		return max(0, min(time.Until(date), maxRetryAfter))
	}
	return 0
}
