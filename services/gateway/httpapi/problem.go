package httpapi

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// typePrefix and a code make the type of a problem.
const typePrefix = "urn:anteroom:error:"

// problem is an RFC 9457 document. Clients decide by Code; Type is the same as a URI.
type problem struct {
	Type   string    `json:"type" format:"uri-reference" doc:"The kind of problem: urn:anteroom:error:<code>, or about:blank if the status says it all"`
	Title  string    `json:"title" doc:"The kind of problem in words, the same for each code"`
	Status int       `json:"status" doc:"The HTTP status"`
	Detail string    `json:"detail" doc:"What is wrong with this request, for humans"`
	Code   wire.Code `json:"code" doc:"What clients should branch on"`
}

// problemOf translates an error with the error table.
func problemOf(err error) *problem {
	e := wire.AsError(err)
	t := e.Code.Translate()
	return &problem{Type: typePrefix + string(e.Code), Title: t.Title, Status: t.HTTP, Detail: e.Detail, Code: e.Code}
}

// problemOfStatus returns the problem for what HTTP itself refuses, a path (404) or a method
// (405). The error table has no codes for these; the code is BAD_REQUEST, since the request is
// wrong.
func problemOfStatus(status int, detail string) *problem {
	return &problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail, Code: wire.BadRequest}
}

func badRequest(format string, args ...any) *problem {
	return problemOf(wire.Errorf(wire.BadRequest, format, args...))
}

// Error, GetStatus, GetHeaders and ContentType are what huma requires of an error.
func (p *problem) Error() string { return string(p.Code) + ": " + p.Detail }

// GetStatus returns the HTTP status.
func (p *problem) GetStatus() int { return p.Status }

// GetHeaders returns the headers that go with the code.
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

// ContentType returns the media type of problems, whatever was negotiated.
func (p *problem) ContentType(string) string { return "application/problem+json" }

// Refuse responds with an error's problem document, for handlers outside of this API.
func Refuse(w http.ResponseWriter, err *wire.Error) { writeProblem(w, problemOf(err)) }

// writeProblem responds outside of huma.
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

// huma has one error constructor for the whole process. What huma itself refuses is always the
// request's fault: BAD_REQUEST, and never huma's 413, 415 or 422.
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
