package wire

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
)

// Code names an error in every protocol: HTTP problem documents, ERROR frames,
// gRPC's ErrorInfo.reason, and, through its close code, a WebSocket's end.
type Code string

// The error codes.
const (
	BadRequest      Code = "BAD_REQUEST"
	Unauthenticated Code = "UNAUTHENTICATED"
	Forbidden       Code = "FORBIDDEN"
	RoomNotFound    Code = "ROOM_NOT_FOUND"
	RoomExists      Code = "ROOM_EXISTS"
	RoomFull        Code = "ROOM_FULL"
	PermitExpired   Code = "PERMIT_EXPIRED"
	RateLimited     Code = "RATE_LIMITED"
	Unavailable     Code = "UNAVAILABLE"
	Internal        Code = "INTERNAL"
)

// Translation is what a Code is called in each protocol.
type Translation struct {
	HTTP  int        // status
	GRPC  codes.Code // status code; the Code itself travels as ErrorInfo.reason
	Close CloseCode  // 0 where the error never ends a connection
	Title string     // title of the problem document
	Retry bool       // HTTP answers carry Retry-After
}

var translations = map[Code]Translation{
	BadRequest:      {HTTP: http.StatusBadRequest, GRPC: codes.InvalidArgument, Close: CloseBadRequest, Title: "Bad request"},
	Unauthenticated: {HTTP: http.StatusUnauthorized, GRPC: codes.Unauthenticated, Close: CloseUnauthenticated, Title: "Identity missing or not valid"},
	Forbidden:       {HTTP: http.StatusForbidden, GRPC: codes.PermissionDenied, Close: CloseForbidden, Title: "Not allowed"},
	RoomNotFound:    {HTTP: http.StatusNotFound, GRPC: codes.NotFound, Close: CloseRoomNotFound, Title: "Room not found"},
	RoomExists:      {HTTP: http.StatusConflict, GRPC: codes.AlreadyExists, Title: "Room exists"},
	RoomFull:        {HTTP: http.StatusConflict, GRPC: codes.ResourceExhausted, Close: CloseRoomFull, Title: "Room is full"},
	PermitExpired:   {HTTP: http.StatusGone, GRPC: codes.FailedPrecondition, Close: ClosePermitExpired, Title: "Permit lapsed, used or unknown"},
	RateLimited:     {HTTP: http.StatusTooManyRequests, GRPC: codes.ResourceExhausted, Close: CloseRateLimited, Title: "Too many requests", Retry: true},
	Unavailable:     {HTTP: http.StatusServiceUnavailable, GRPC: codes.Unavailable, Close: CloseUnavailable, Title: "Temporarily unavailable", Retry: true},
	Internal:        {HTTP: http.StatusInternalServerError, GRPC: codes.Internal, Close: CloseInternal, Title: "Internal error"},
}

// Codes are all codes.
func Codes() []Code { return slices.Sorted(maps.Keys(translations)) }

// Known reports whether c is a code of the table.
func (c Code) Known() bool { _, ok := translations[c]; return ok }

// Translate answers with c's names in each protocol; an unknown code is translated as INTERNAL.
func (c Code) Translate() Translation {
	if t, ok := translations[c]; ok {
		return t
	}
	return translations[Internal]
}

// RetryAfter is what HTTP's Retry-After says on codes that carry it.
const RetryAfter = time.Second

// Error is a refusal that reaches a user. Its detail is written for people and
// names no internals.
type Error struct {
	Code   Code
	Detail string
}

// Errorf makes an Error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Detail }

// Is makes errors with the same code equal to errors.Is.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// AsError finds the refusal in err. What is not a refusal becomes INTERNAL with a
// detail that tells nothing: the caller logs err itself.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Code: Internal, Detail: "something went wrong on our side"}
}

// CodeOf answers with the code of err, INTERNAL when it has none.
func CodeOf(err error) Code { return AsError(err).Code }

// CloseCode is a WebSocket close status.
type CloseCode uint16

// The close codes of the service. After 1001, 1012 and 4500–4599 a client comes back by
// itself, with a delay and `after` (Retryable); after any other it does not, before
// something else has been done.
const (
	CloseNormal          CloseCode = 1000
	CloseGoingAway       CloseCode = 1001
	CloseProtocolError   CloseCode = 1002
	CloseUnsupported     CloseCode = 1003
	CloseInvalidText     CloseCode = 1007
	CloseTooBig          CloseCode = 1009
	CloseRestart         CloseCode = 1012
	CloseBadRequest      CloseCode = 4400
	CloseUnauthenticated CloseCode = 4401
	CloseForbidden       CloseCode = 4403
	CloseRoomNotFound    CloseCode = 4404
	CloseJoinTimeout     CloseCode = 4408
	CloseRoomFull        CloseCode = 4409
	ClosePermitExpired   CloseCode = 4410
	CloseRateLimited     CloseCode = 4429
	CloseReplaced        CloseCode = 4440
	CloseRemoved         CloseCode = 4441
	CloseRoomDeleted     CloseCode = 4442
	CloseInternal        CloseCode = 4500
	CloseUnavailable     CloseCode = 4503
	CloseLeaseLost       CloseCode = 4504
	CloseSlowConsumer    CloseCode = 4508
)

var closeNames = map[CloseCode]string{
	CloseNormal: "NORMAL", CloseGoingAway: "GOING_AWAY", CloseProtocolError: "PROTOCOL_ERROR",
	CloseUnsupported: "UNSUPPORTED", CloseInvalidText: "INVALID_TEXT", CloseTooBig: "TOO_BIG", CloseRestart: "RESTART",
	CloseBadRequest: "BAD_REQUEST", CloseUnauthenticated: "UNAUTHENTICATED", CloseForbidden: "FORBIDDEN",
	CloseRoomNotFound: "ROOM_NOT_FOUND", CloseJoinTimeout: "JOIN_TIMEOUT", CloseRoomFull: "ROOM_FULL",
	ClosePermitExpired: "PERMIT_EXPIRED", CloseRateLimited: "RATE_LIMITED", CloseReplaced: "REPLACED",
	CloseRemoved: "REMOVED", CloseRoomDeleted: "ROOM_DELETED", CloseInternal: "INTERNAL",
	CloseUnavailable: "UNAVAILABLE", CloseLeaseLost: "LEASE_LOST", CloseSlowConsumer: "SLOW_CONSUMER",
}

// CloseCodes are all close codes of the service.
func CloseCodes() []CloseCode { return slices.Sorted(maps.Keys(closeNames)) }

// String answers with the code's name: the close reason on the wire and the
// label in metrics.
func (c CloseCode) String() string {
	if name, ok := closeNames[c]; ok {
		return name
	}
	return fmt.Sprintf("CLOSE_%d", uint16(c))
}

// Retryable reports whether a client comes back by itself after this code.
func (c CloseCode) Retryable() bool {
	switch c {
	case 1001, 1006, 1011, 1012, 1013:
		return true
	}
	return c >= 4500 && c < 4600
}
