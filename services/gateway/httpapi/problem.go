package httpapi

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/anteroom-chat/anteroom/pkg/rpc"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// typePrefix makes a problem's type of its code.
const typePrefix = "urn:anteroom:error:"

// problem is an RFC 9457 document. Clients go by code; type is the same as a URI.
type problem struct {
	Type   string    `json:"type" format:"uri-reference" doc:"The kind of problem: urn:anteroom:error:<code>, or about:blank where status alone tells it"`
	Title  string    `json:"title" doc:"The kind of problem in words, always the same"`
	Status int       `json:"status" doc:"The HTTP status"`
	Detail string    `json:"detail" doc:"What is wrong with this request, for people"`
	Code   wire.Code `json:"code" doc:"What clients decide by"`
}

// problemOf translates an error by the error table.
func problemOf(err error) *problem {
	e := wire.AsError(err)
	t := e.Code.Translate()
	return &problem{Type: typePrefix + string(e.Code), Title: t.Title, Status: t.HTTP, Detail: e.Detail, Code: e.Code}
}

// problemOfStatus is for what HTTP itself refuses (404 of a path, 405): the table
// has no code of its own for them; the request is wrong, whatever the room.
func problemOfStatus(status int, detail string) *problem {
	return &problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail, Code: wire.BadRequest}
}

func badRequest(format string, args ...any) *problem {
	return problemOf(wire.Errorf(wire.BadRequest, format, args...))
}

// Error, GetStatus, GetHeaders and ContentType are what huma asks of an error.
func (p *problem) Error() string { return string(p.Code) + ": " + p.Detail }

// GetStatus is the HTTP status.
func (p *problem) GetStatus() int { return p.Status }

// GetHeaders adds what the code calls for.
func (p *problem) GetHeaders() http.Header {
	h := http.Header{}
	if p.Code.Translate().Retry {
		h.Set("Retry-After", strconv.Itoa(int(wire.RetryAfter.Seconds())))
	}
	if p.Code == wire.Unauthenticated {
		h.Set("WWW-Authenticate", `Bearer realm="anteroom"`)
	}
	return h
}

// ContentType is the media type of problems, whatever was negotiated.
func (p *problem) ContentType(string) string { return "application/problem+json" }

// Refuse answers with an error's problem document, beside the API.
func Refuse(w http.ResponseWriter, err *wire.Error) { writeProblem(w, problemOf(err)) }

// writeProblem answers outside of huma.
func writeProblem(w http.ResponseWriter, p *problem) {
	for name, values := range p.GetHeaders() {
		if w.Header().Get(name) == "" {
			w.Header()[name] = values
		}
	}
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	w.Write(append(mustJSON(p), '\n'))
}

// huma has one error constructor for the whole process. What it refuses by itself
// is always the request's fault: BAD_REQUEST, never its 413, 415 or 422.
func init() {
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		if status >= http.StatusInternalServerError {
			return problemOf(nil)
		}
		for _, err := range errs {
			if detail, ok := errors.AsType[*huma.ErrorDetail](err); ok {
				msg = detail.Message
			}
		}
		return badRequest("%s", msg)
	}
}

// causeOf is what to log of an error.
func causeOf(err error) error { return rpc.Cause(err) }
