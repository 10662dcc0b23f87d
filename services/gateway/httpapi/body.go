package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// checkBody reads the body of a POST or a DELETE before its handler runs: at most 16 KiB of
// UTF-8, sent as JSON. An empty body needs no type. The body of a DELETE may have no fields.
func checkBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost && r.Method != http.MethodDelete {
			next.ServeHTTP(w, r)
			return
		}
		body, refusal := readBody(w, r)
		if refusal != nil {
			writeProblem(w, refusal)
			return
		}
		if r.Method == http.MethodDelete && len(body) > 0 {
			if err := decodeBody(body, &struct{}{}); err != nil {
				writeProblem(w, badRequest("%s", err))
				return
			}
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, *problem) {
	// A connection whose body trickles in is held no longer than any other request.
	deadline := http.NewResponseController(w)
	_ = deadline.SetReadDeadline(time.Now().Add(RequestTimeout)) // the writers of some tests have none
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBodyBytes))
	if err == nil {
		_ = deadline.SetReadDeadline(time.Time{})
	} // otherwise it stays: net/http reads the body to its end before it responds
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, badRequest("the body is larger than %d bytes", MaxBodyBytes)
	}
	if err != nil {
		return nil, badRequest("the body could not be read")
	}
	if len(body) == 0 {
		return nil, nil
	}
	if !jsonType(r.Header) {
		return nil, badRequest("the body must be sent as application/json")
	}
	if !utf8.Valid(body) {
		return nil, badRequest("the body is not UTF-8")
	}
	// huma reads by Content-Type; there is one format.
	r.Header.Set("Content-Type", "application/json")
	return body, nil
}

// jsonType accepts application/json, in UTF-8, and no type at all.
func jsonType(h http.Header) bool {
	values := h.Values("Content-Type")
	if len(values) == 0 || values[0] == "" {
		return true
	}
	media, params, err := mime.ParseMediaType(values[0])
	charset, given := params["charset"]
	return err == nil && len(values) == 1 && media == "application/json" &&
		(!given || strings.EqualFold(charset, "utf-8"))
}

// decodeBody reads data into the struct that v points to, or points to a pointer to. Unlike
// encoding/json it refuses unknown and repeated fields, names in another case, null, and
// anything after the object.
func decodeBody(data []byte, v any) error {
	target := reflect.ValueOf(v).Elem()
	if target.Kind() == reflect.Pointer {
		target.Set(reflect.New(target.Type().Elem()))
		target = target.Elem()
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if start, err := dec.Token(); err != nil || start != json.Delim('{') {
		return errNotObject
	}
	seen := map[string]bool{}
	for dec.More() {
		token, err := dec.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return errNotObject
		}
		field, known := fieldOf(target, name)
		if !known {
			return fmt.Errorf("%.64q is not a field of this request", name)
		}
		if seen[name] {
			return fmt.Errorf("%s is there twice", name)
		}
		seen[name] = true
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return errNotObject
		}
		if !decodeValue(value, field) {
			return fmt.Errorf("%s is not %s", name, kindOf(field.Type()))
		}
	}
	if _, err := dec.Token(); err != nil {
		return errNotObject
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something stands behind the JSON object")
	}
	return nil
}

// decodeValue reads the value of one field. A whole number may be written like 1.0 or 1e2.
func decodeValue(value json.RawMessage, field reflect.Value) bool {
	if string(value) == "null" {
		return false
	}
	if json.Unmarshal(value, field.Addr().Interface()) == nil {
		return value[0] != '"' || !wire.HalfPair(value)
	}
	if field.Kind() == reflect.Pointer {
		field.Set(reflect.New(field.Type().Elem()))
		field = field.Elem()
	}
	number, ok := wire.Whole(value)
	if field.Kind() != reflect.Int32 || !ok || field.OverflowInt(number) {
		return false
	}
	field.SetInt(number)
	return true
}

var errNotObject = errors.New("the body is not a JSON object")

// fieldOf finds the field whose JSON name is exactly name.
func fieldOf(v reflect.Value, name string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if tag, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ","); tag == name && tag != "" {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func kindOf(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Int32:
		return "a whole number, or far out of range"
	case reflect.String:
		return "a string, or has half a surrogate pair"
	}
	return "a " + t.Kind().String()
}
