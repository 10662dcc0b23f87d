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

// Domain is the ErrorInfo.domain of every error of this project.
const Domain = "anteroom"

// ToStatus translates what a handler returned. A refusal becomes the status of
// the error table with its code as ErrorInfo.reason; a context's end its own
// status; a status stays as it is. defect is true for everything else: the caller
// is told INTERNAL and nothing more, and err has to be logged.
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
	if err != nil { // only an OK status or an unmarshalable detail does that
		return st
	}
	return with
}

// FromStatus translates the error of a call back. What the server refused is the
// *wire.Error that it raised. What did not reach a server, or did not come back in
// time, is UNAVAILABLE: it says nothing about the room. Anything else is INTERNAL,
// also a ResourceExhausted or NotFound that the room service did not raise: it
// must never pass for ROOM_FULL or ROOM_NOT_FOUND.
//
// The status, and the context's error where the caller's context ended, stay in
// reach of errors.Is and errors.As.
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

// statusOf finds the status as the server sent it: gRPC wraps what its last retry
// got, and status.Convert would put that text into the message.
func statusOf(err error) *status.Status {
	if sent, ok := errors.AsType[interface {
		error
		GRPCStatus() *status.Status
	}](err); ok {
		return sent.GRPCStatus()
	}
	return status.Convert(err)
}

// callError is the refusal that a call ended with, and the status that brought it.
type callError struct {
	refusal *wire.Error
	cause   error
}

// Error tells the refusal; the cause is for logs: Cause finds it.
func (e *callError) Error() string { return e.refusal.Error() }

func (e *callError) Unwrap() []error { return []error{e.refusal, e.cause} }

// Cause answers with the status error behind err, for a log line; err itself when
// it did not come from a call.
func Cause(err error) error {
	if call, ok := errors.AsType[*callError](err); ok {
		return call.cause
	}
	return err
}

// codeLabel names the end of a call in metrics: OK, a code of the error table, or
// the gRPC code where the table has none. st is what err was translated to.
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
