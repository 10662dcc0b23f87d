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

// Code identifies an error in every protocol: in HTTP problem documents, in ERROR frames, in
// gRPC's ErrorInfo.reason and, through its close code, at the end of a WebSocket.
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

// Translation says how a Code is expressed in each protocol.
type Translation struct {
	HTTP  int        // status
	GRPC  codes.Code // status code; the Code itself travels as ErrorInfo.reason
	Close CloseCode  // 0 if the error never ends a connection
	Title string     // title of the problem document
	Retry bool       // the HTTP response carries Retry-After
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

// Codes returns all codes.
func Codes() []Code { return slices.Sorted(maps.Keys(translations)) }

// Known reports whether c is in the error table.
func (c Code) Known() bool { _, ok := translations[c]; return ok }

// Translate returns c's translation. An unknown code is translated as INTERNAL.
func (c Code) Translate() Translation {
	if t, ok := translations[c]; ok {
		return t
	}
	return translations[Internal]
}

// RetryAfter is the value of the Retry-After header, for codes that carry it.
const RetryAfter = time.Second

// Error is a refusal that reaches a user. Detail is written for people and names no
// internals.
type Error struct {
	Code   Code
	Detail string
}

// Errorf makes an Error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Detail }

// Is lets errors.Is match two Errors with the same code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// AsError returns the *Error in err. If there is none, it returns INTERNAL with a detail that
// reveals nothing, and the caller should log err.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Code: Internal, Detail: "something went wrong on our side"}
}

// CodeOf returns the code of err, or INTERNAL if it has none.
func CodeOf(err error) Code { return AsError(err).Code }

// CloseCode is a WebSocket close status.
type CloseCode uint16

// The close codes of the service. After 1001, 1012 and 4500–4599 a client connects again by
// itself, with a delay and `after` (Retryable). After any other code it must do something
// else first.
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

// CloseCodes returns all close codes of the service.
func CloseCodes() []CloseCode { return slices.Sorted(maps.Keys(closeNames)) }

// String returns the code's name, which is the close reason on the wire and the label in
// metrics.
func (c CloseCode) String() string {
	if name, ok := closeNames[c]; ok {
		return name
	}
	return fmt.Sprintf("CLOSE_%d", uint16(c))
}

// Retryable reports whether a client connects again by itself after this code.
func (c CloseCode) Retryable() bool {
	switch c {
	case 1001, 1006, 1011, 1012, 1013:
		return true
	}
	return c >= 4500 && c < 4600
}
