package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
)

// merge applies a JSON merge patch (RFC 7396).
func merge(target, patch tree) tree {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	t, ok := target.(map[string]any)
	if !ok {
		t = map[string]any{}
	}
	t = maps.Clone(t)
	for k, v := range p {
		if v == nil {
			delete(t, k)
			continue
		}
		t[k] = merge(t[k], v)
	}
	return t
}

// merger checks a patch against T, with errors that name the field below path, and gives the function that applies it
// to whatever T holds by then.
func merger[T any](patch tree, path string) (func(T) (T, error), error) {
	if err := check(reflect.TypeFor[T](), patch, path, passReadOnly); err != nil {
		return nil, err
	}
	return func(current T) (T, error) {
		var next T
		data, err := json.Marshal(current)
		if err != nil {
			return next, fmt.Errorf("encode the object to patch: %w", err)
		}
		t, err := parse(data)
		if err != nil {
			return next, fmt.Errorf("read the object to patch: %w", err)
		}
		return next, fill(merge(t, patch), &next, passReadOnly)
	}, nil
}
