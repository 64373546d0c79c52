package api

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/orrery-db/orrery"
)

const (
	maxBody  = 1 << 20
	maxDepth = 16 // of nested objects and arrays; no request needs more than 5
)

// readBody reads a request's body whole.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	tooLarge := orrery.Errorf(orrery.KindTooLarge, "the body is larger than %d bytes", maxBody)
	if r.ContentLength > maxBody {
		return nil, tooLarge
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, tooLarge
	}
	if err != nil {
		return nil, orrery.Errorf(orrery.KindInvalid, "the body could not be read to its end").WithCode("body_incomplete").WithCause(err)
	}
	return data, nil
}

// tree is parsed JSON: map[string]any, []any, string, json.Number, bool or nil.
type tree = any

// parse reads exactly one JSON value. Beyond what encoding/json refuses it refuses keys given twice, deep nesting and
// bytes that are not UTF-8.
func parse(data []byte) (tree, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, orrery.Errorf(orrery.KindInvalid, "a JSON body is wanted").WithCode("body_missing")
	}
	if !utf8.Valid(data) {
		return nil, orrery.Errorf(orrery.KindInvalid, "the body is not UTF-8").WithCode("json_malformed")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := parseValue(dec, "", 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, orrery.Errorf(orrery.KindInvalid, "something follows the JSON value of the body").WithCode("json_malformed")
	}
	return v, nil
}

func parseValue(dec *json.Decoder, path string, depth int) (tree, error) {
	if depth > maxDepth {
		return nil, orrery.Invalid(orrery.Shorten(path, 100), "the body is nested more than %d deep", maxDepth).WithCode("json_too_deep")
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, malformed(dec, err)
	}
	switch tok {
	case json.Delim('{'):
		m := map[string]any{}
		for dec.More() {
			tok, err := dec.Token()
			if err != nil {
				return nil, malformed(dec, err)
			}
			key, _ := tok.(string)
			at := join(path, key)
			if _, twice := m[key]; twice {
				return nil, orrery.Invalid(at, "the field is given twice").WithCode("field_twice")
			}
			if m[key], err = parseValue(dec, at, depth+1); err != nil {
				return nil, err
			}
		}
		_, err = dec.Token()
		return m, malformed(dec, err)
	case json.Delim('['):
		list := []any{}
		for dec.More() {
			v, err := parseValue(dec, fmt.Sprintf("%s[%d]", path, len(list)), depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err = dec.Token()
		return list, malformed(dec, err)
	}
	return tok, nil
}

func malformed(dec *json.Decoder, err error) error {
	if err == nil {
		return nil
	}
	return orrery.Errorf(orrery.KindInvalid, "the body is not JSON; what is wrong begins near byte %d", dec.InputOffset()).
		WithCode("json_malformed").WithCause(err)
}

func join(path, key string) string {
	key = orrery.Shorten(key, 60)
	if path == "" {
		return key
	}
	return path + "." + key
}

// readOnly says what becomes of fields that only the server sets.
type readOnly bool

const (
	refuseReadOnly readOnly = false
	passReadOnly   readOnly = true
)

// decode checks data against the type of v and fills v. Errors name the offending field.
func decode(data []byte, v any, ro readOnly) error {
	t, err := parse(data)
	if err != nil {
		return err
	}
	return fill(t, v, ro)
}

// fill checks t against the type of v and fills v with it.
func fill(t tree, v any, ro readOnly) error {
	if err := check(reflect.TypeOf(v).Elem(), t, "", ro); err != nil {
		return err
	}
	data, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("encode a checked body: %w", err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		te, _ := errors.AsType[*json.UnmarshalTypeError](err)
		if te == nil {
			te = &json.UnmarshalTypeError{}
		}
		return orrery.Invalid(te.Field, "the value cannot be used").WithCode("wrong_type").WithCause(err)
	}
	return nil
}

// check walks t along a Go type as encoding/json would. Null stands for "not given" and is taken everywhere.
func check(typ reflect.Type, t tree, path string, ro readOnly) error {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	if t == nil || typ == reflect.TypeFor[json.RawMessage]() || typ.Kind() == reflect.Interface {
		return nil
	}
	if reflect.PointerTo(typ).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return checkText(typ, t, path)
	}
	switch typ.Kind() {
	case reflect.Struct:
		m, ok := t.(map[string]any)
		if !ok {
			return wrongType(path, "an object", t)
		}
		return checkFields(typ, m, path, ro)
	case reflect.Map:
		m, ok := t.(map[string]any)
		if !ok {
			return wrongType(path, "an object", t)
		}
		for _, key := range sortedKeys(m) {
			if err := check(typ.Elem(), m[key], join(path, key), ro); err != nil {
				return err
			}
		}
	case reflect.Slice:
		list, ok := t.([]any)
		if !ok {
			return wrongType(path, "a list", t)
		}
		for i, v := range list {
			if err := check(typ.Elem(), v, fmt.Sprintf("%s[%d]", path, i), ro); err != nil {
				return err
			}
		}
	default:
		return checkScalar(typ, t, path)
	}
	return nil
}

func checkFields(typ reflect.Type, m map[string]any, path string, ro readOnly) error {
	fields := fieldsOf(typ)
	for _, key := range sortedKeys(m) {
		at := join(path, key)
		f, ok := fields[key]
		if !ok {
			known := make([]string, 0, len(fields))
			for name, f := range fields {
				if f.Tag.Get("readOnly") == "" {
					known = append(known, name)
				}
			}
			slices.Sort(known)
			return orrery.Invalid(at, "there is no field %q here", orrery.Shorten(key, 60)).WithCode("field_unknown").
				WithHint("The fields are: %s.", strings.Join(known, ", "))
		}
		if f.Tag.Get("readOnly") == "true" && ro == refuseReadOnly && m[key] != nil {
			return orrery.Invalid(at, "this field is set by the server").WithCode("field_read_only").WithHint("Leave it out.")
		}
		if err := check(f.Type, m[key], at, ro); err != nil {
			return err
		}
	}
	return nil
}

// fieldsOf gives a struct's JSON fields, those of embedded structs included.
func fieldsOf(typ reflect.Type) map[string]reflect.StructField {
	fields := map[string]reflect.StructField{}
	for _, f := range reflect.VisibleFields(typ) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.IsExported() && name != "" && name != "-" && (len(f.Index) == 1 || !hiddenBy(fields, name)) {
			fields[name] = f
		}
	}
	return fields
}

func hiddenBy(fields map[string]reflect.StructField, name string) bool {
	_, ok := fields[name]
	return ok
}

func checkScalar(typ reflect.Type, t tree, path string) error {
	switch typ.Kind() {
	case reflect.String:
		if _, ok := t.(string); !ok {
			return wrongType(path, "a string", t)
		}
	case reflect.Bool:
		if _, ok := t.(bool); !ok {
			return wrongType(path, "true or false", t)
		}
	case reflect.Int, reflect.Int64, reflect.Uint64:
		n, ok := t.(json.Number)
		if !ok {
			return wrongType(path, "a whole number", t)
		}
		if json.Unmarshal([]byte(n), reflect.New(typ).Interface()) != nil {
			return orrery.Invalid(path, "must be a whole number, and is %s", orrery.Shorten(n.String(), 40)).WithCode("wrong_type")
		}
	default:
		return fmt.Errorf("%s: a request cannot hold a %s", path, typ)
	}
	return nil
}

func checkText(typ reflect.Type, t tree, path string) error {
	s, ok := t.(string)
	if !ok {
		return wrongType(path, "a string", t)
	}
	u, _ := reflect.New(typ).Interface().(encoding.TextUnmarshaler)
	if err := u.UnmarshalText([]byte(s)); err != nil {
		return orrery.Invalid(path, "%q cannot be read", orrery.Shorten(s, 60)).WithCode("wrong_type").
			WithHint("Times are given as RFC 3339, as in 2026-01-31T12:00:00Z.")
	}
	return nil
}

func wrongType(path, want string, t tree) error {
	is := "null"
	switch t.(type) {
	case map[string]any:
		is = "an object"
	case []any:
		is = "a list"
	case string:
		is = "a string"
	case json.Number:
		is = "a number"
	case bool:
		is = "true or false"
	}
	return orrery.Invalid(path, "must be %s, and is %s", want, is).WithCode("wrong_type")
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
