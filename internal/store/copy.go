package store

import (
	"reflect"
	"time"
)

var timeType = reflect.TypeFor[time.Time]()

// clone makes a deep copy of plain data: what is in package orrery. Decoding the stored form anew would do the same at
// ten times the cost.
func clone[T any](v *T) *T {
	out := new(T)
	copyInto(reflect.ValueOf(out).Elem(), reflect.ValueOf(v).Elem())
	return out
}

func copyInto(dst, src reflect.Value) {
	switch src.Kind() {
	case reflect.Pointer:
		if !src.IsNil() {
			dst.Set(reflect.New(src.Type().Elem()))
			copyInto(dst.Elem(), src.Elem())
		}
	case reflect.Struct:
		dst.Set(src)
		if src.Type() == timeType { // immutable, and its fields are its own
			return
		}
		for i := range src.NumField() {
			if !flat(src.Field(i).Kind()) {
				copyInto(dst.Field(i), src.Field(i))
			}
		}
	case reflect.Slice:
		if src.IsNil() {
			dst.SetZero()
			return
		}
		dst.Set(reflect.MakeSlice(src.Type(), src.Len(), src.Len()))
		reflect.Copy(dst, src)
		if !flat(src.Type().Elem().Kind()) {
			for i := range src.Len() {
				copyInto(dst.Index(i), src.Index(i))
			}
		}
	case reflect.Map:
		if src.IsNil() {
			dst.SetZero()
			return
		}
		dst.Set(reflect.MakeMapWithSize(src.Type(), src.Len()))
		for it := src.MapRange(); it.Next(); {
			value := reflect.New(src.Type().Elem()).Elem()
			copyInto(value, it.Value())
			dst.SetMapIndex(it.Key(), value)
		}
	default:
		dst.Set(src)
	}
}

// flat tells whether values of a kind hold no reference to data that could be changed.
func flat(k reflect.Kind) bool {
	return k <= reflect.Complex128 && k != reflect.Uintptr || k == reflect.String
}
