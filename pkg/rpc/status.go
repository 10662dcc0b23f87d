package rpc

import (
	"context"
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// Domain is the ErrorInfo.domain of all errors of this project.
const Domain = "anteroom"

// ToStatus translates the error of a handler. A *wire.Error becomes the status given in the
// error table, with its code as ErrorInfo.reason. The end of a context becomes
// DeadlineExceeded or Canceled, and a status stays as it is. Everything else is a defect: the
// status is INTERNAL and says nothing more, defect is true, and err must be logged. A
// *wire.Error with code INTERNAL is a defect too.
func ToStatus(err error) (st *status.Status, defect bool) {
	if err == nil {
		return nil, false
	}
	if refusal, ok := errors.AsType[*wire.Error](err); ok {
		return fromWire(refusal), refusal.Code == wire.Internal
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return status.New(codes.DeadlineExceeded, "the deadline passed while the call was served"), false
	}
	if errors.Is(err, context.Canceled) {
		return status.New(codes.Canceled, "the call was cancelled"), false
	}
	if st, ok := status.FromError(err); ok {
		return st, false
	}
	return fromWire(wire.AsError(err)), true
}

func fromWire(e *wire.Error) *status.Status {
	t := e.Code.Translate()
	st := status.New(t.GRPC, e.Detail)
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: string(e.Code), Domain: Domain}}
	if t.Retry {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(wire.RetryAfter)})
	}
	with, err := st.WithDetails(details...)
	if err != nil { // happens only with an OK status or a detail that cannot be marshaled
		return st
	}
	return with
}

// FromStatus translates the error of a call back:
//
//   - A refusal by the server becomes the *wire.Error that the server raised.
//   - A call that did not reach a server, or was not answered in time, becomes UNAVAILABLE,
//     which says nothing about the room.
//   - Anything else is INTERNAL, also a ResourceExhausted or NotFound that the room service
//     did not raise: these must never pass for ROOM_FULL or ROOM_NOT_FOUND.
//
// errors.Is and errors.As also find the status and, if the caller's context ended, the error
// of the context.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	st := statusOf(err)
	for _, detail := range st.Details() {
		info, ok := detail.(*errdetails.ErrorInfo)
		if ok && info.GetDomain() == Domain && wire.Code(info.GetReason()).Known() {
			return &callError{refusal: wire.Errorf(wire.Code(info.GetReason()), "%s", st.Message()), cause: err}
		}
	}
	switch st.Code() {
	case codes.Unavailable:
		return &callError{refusal: wire.Errorf(wire.Unavailable, "the room service is out of reach"), cause: err}
	case codes.DeadlineExceeded:
		return &callError{
			refusal: wire.Errorf(wire.Unavailable, "the room service did not answer in time"),
			cause:   errors.Join(err, context.DeadlineExceeded),
		}
	case codes.Canceled:
		return &callError{
			refusal: wire.Errorf(wire.Unavailable, "the call to the room service was cut short"),
			cause:   errors.Join(err, context.Canceled),
		}
	}
	return &callError{refusal: wire.AsError(nil), cause: err}
}

// statusOf returns the status as the server sent it. gRPC wraps the error of the last retry,
// and status.Convert would put that text into the message.
func statusOf(err error) *status.Status {
	if sent, ok := errors.AsType[interface {
		error
		GRPCStatus() *status.Status
	}](err); ok {
		return sent.GRPCStatus()
	}
	return status.Convert(err)
}

// callError is the refusal with which a call ended, and the status error that it came from.
type callError struct {
	refusal *wire.Error
	cause   error
}

// Error describes the refusal. The cause is for logs; see Cause.
func (e *callError) Error() string { return e.refusal.Error() }

func (e *callError) Unwrap() []error { return []error{e.refusal, e.cause} }

// Cause returns the status error that err came from, for a log line. If err did not come from
// a call, it returns err itself.
func Cause(err error) error {
	if call, ok := errors.AsType[*callError](err); ok {
		return call.cause
	}
	return err
}

// codeLabel returns the label in metrics for the result of a call: OK, a code of the error
// table or, if the table has none, the gRPC code. st is the status that err was translated
// to.
func codeLabel(err error, st *status.Status) string {
	if err == nil {
		return "OK"
	}
	if refusal, ok := errors.AsType[*wire.Error](err); ok {
		return string(refusal.Code)
	}
	if st.Code() == codes.Internal {
		return string(wire.Internal)
	}
	return st.Code().String()
}
