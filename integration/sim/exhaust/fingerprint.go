package exhaust

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"path"
	"reflect"
	"slices"
)

// digest is the 128 bits by which states are told apart.
type digest [16]byte

func digestOf(b []byte) digest {
	sum := sha256.Sum256(b)
	return digest(sum[:16])
}

// fingerprint is a digest of everything that v reaches, unexported fields too:
// no field can be left out by mistake when a machine gains one. Pointers are
// numbered as they are met, so that shared structure counts and addresses do
// not; what is of package wire is never changed, and a copy of it is as good.
// skip names fields ("Type.field") that hold no state.
func fingerprint(v any, skip map[string]bool) digest {
	w := walker{seen: map[uintptr]uint64{}, skip: skip}
	w.walk(reflect.ValueOf(v))
	return digestOf(w.b)
}

type walker struct {
	b    []byte
	seen map[uintptr]uint64
	skip map[string]bool
}

func (w *walker) number(n uint64) { w.b = binary.AppendUvarint(w.b, n) }

func (w *walker) walk(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		if v.Bool() {
			w.number(1)
		} else {
			w.number(0)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		w.b = binary.AppendVarint(w.b, v.Int())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		w.number(v.Uint())
	case reflect.String:
		w.number(uint64(v.Len()))
		w.b = append(w.b, v.String()...)
	case reflect.Pointer:
		w.pointer(v)
	case reflect.Interface:
		if v.IsNil() {
			w.number(0)
			return
		}
		w.b = append(w.b, v.Elem().Type().String()...)
		w.walk(v.Elem())
	case reflect.Slice, reflect.Array:
		w.number(uint64(v.Len()))
		for i := range v.Len() {
			w.walk(v.Index(i))
		}
	case reflect.Struct:
		t := v.Type()
		for i := range v.NumField() {
			if !w.skip[t.Name()+"."+t.Field(i).Name] {
				w.walk(v.Field(i))
			}
		}
	case reflect.Map:
		w.table(v)
	default:
		panic(fmt.Sprintf("exhaust: a machine holds a %v", v.Type()))
	}
}

func (w *walker) pointer(v reflect.Value) {
	if v.IsNil() {
		w.number(0)
		return
	}
	if path.Base(v.Type().Elem().PkgPath()) == "wire" {
		w.number(1)
		w.walk(v.Elem())
		return
	}
	if n, ok := w.seen[v.Pointer()]; ok {
		w.number(n)
		return
	}
	n := uint64(len(w.seen) + 1)
	w.seen[v.Pointer()] = n
	w.number(n)
	w.walk(v.Elem())
}

// table walks a map in the order of its keys' bytes; keys hold no pointers.
func (w *walker) table(v reflect.Value) {
	type row struct {
		key   []byte
		value reflect.Value
	}
	rows := make([]row, 0, v.Len())
	for it := v.MapRange(); it.Next(); {
		k := walker{}
		k.walk(it.Key())
		rows = append(rows, row{k.b, it.Value()})
	}
	slices.SortFunc(rows, func(a, b row) int { return bytes.Compare(a.key, b.key) })
	w.number(uint64(len(rows)))
	for _, r := range rows {
		w.b = append(w.b, r.key...)
		w.walk(r.value)
	}
}
