package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strconv"

	libvirt "github.com/digitalocean/go-libvirt"
)

// maxDepth bounds how deep types may nest; the protocol's deepest is 6.
const maxDepth = 16

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }

var typedParamValue = typeOf[libvirt.TypedParamValue]()

// optionals are go-libvirt's types for XDR's optional data, a flag followed by at most one value. A slice stands for them.
var optionals = map[reflect.Type]bool{
	typeOf[libvirt.OptString]():          true,
	typeOf[libvirt.OptDomain]():          true,
	typeOf[libvirt.OptNetwork]():         true,
	typeOf[libvirt.OptNetworkPort]():     true,
	typeOf[libvirt.OptNwfilter]():        true,
	typeOf[libvirt.OptNwfilterBinding](): true,
	typeOf[libvirt.OptStoragePool]():     true,
	typeOf[libvirt.OptStorageVol]():      true,
	typeOf[libvirt.OptNodeDevice]():      true,
	typeOf[libvirt.OptSecret]():          true,
}

// buildCodec compiles the plan for t. XDR has no 8 and 16 bit integers: they take 4 bytes, except in opaque data ([]byte
// and [N]byte). A pointer is optional data.
func buildCodec(t reflect.Type, limit uint32, depth int) (*codec, error) {
	if depth > maxDepth {
		return nil, errors.New("nested too deeply")
	}
	if limit == 0 {
		limit = StringMax
	}
	switch t {
	case typedParamValue:
		return typedParamCodec(), nil
	case domainType:
		return domainCodec, nil
	}
	switch t.Kind() {
	case reflect.Int8, reflect.Int16, reflect.Int32:
		return intCodec(t.Bits()), nil
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return uintCodec(t.Bits()), nil
	case reflect.Int64:
		return int64Codec, nil
	case reflect.Uint64:
		return uint64Codec, nil
	case reflect.Float64:
		return float64Codec, nil
	case reflect.Bool:
		return boolCodec, nil
	case reflect.String:
		return stringCodec(limit), nil
	case reflect.Struct:
		return structCodec(t, depth)
	case reflect.Pointer:
		return pointerCodec(t, depth)
	case reflect.Array:
		return arrayCodec(t, depth)
	case reflect.Slice:
		return sliceCodec(t, limit, depth)
	}
	return nil, fmt.Errorf("kind %s has no XDR form", t.Kind())
}

type fieldCodec struct {
	*codec
	index int
	name  string
}

func structCodec(t reflect.Type, depth int) (*codec, error) {
	limits := fieldLimits[t]
	fields := make([]fieldCodec, t.NumField())
	min := 0
	for i := range fields {
		f := t.Field(i)
		if !f.IsExported() {
			return nil, fmt.Errorf("field %s is not exported", f.Name)
		}
		limit, err := limitOf(f, limits)
		if err != nil {
			return nil, err
		}
		c, err := buildCodec(f.Type, limit, depth+1)
		if err != nil {
			return nil, fmt.Errorf("field %s: %w", f.Name, err)
		}
		fields[i] = fieldCodec{c, i, f.Name}
		min += c.min
	}
	return &codec{
		min: min,
		enc: func(b []byte, v reflect.Value) ([]byte, error) {
			for i := range fields {
				var err error
				if b, err = fields[i].enc(b, v.Field(i)); err != nil {
					return b, fieldError(fields[i].name, err)
				}
			}
			return b, nil
		},
		dec: func(d *decoder, v reflect.Value) error {
			for i := range fields {
				if err := fields[i].dec(d, v.Field(i)); err != nil {
					return fieldError(fields[i].name, err)
				}
			}
			return nil
		},
	}, nil
}

func fieldError(name string, err error) error { return fmt.Errorf("%s: %w", name, err) }

// limitOf is a field's longest length: from the protocol's table, or from the tag `xdr:"N"` of virtd's own types.
func limitOf(f reflect.StructField, limits []uint32) (uint32, error) {
	if tag := f.Tag.Get("xdr"); tag != "" {
		n, err := strconv.ParseUint(tag, 10, 32)
		if err != nil || n == 0 {
			return 0, fmt.Errorf("field %s: bad limit %q", f.Name, tag)
		}
		return uint32(n), nil
	}
	if i := f.Index[0]; i < len(limits) {
		return limits[i], nil
	}
	return 0, nil
}

func pointerCodec(t reflect.Type, depth int) (*codec, error) {
	elem, err := buildCodec(t.Elem(), 0, depth+1)
	if err != nil {
		return nil, err
	}
	return &codec{
		min: 4,
		enc: func(b []byte, v reflect.Value) ([]byte, error) {
			b = binary.BigEndian.AppendUint32(b, flag(!v.IsNil()))
			if v.IsNil() {
				return b, nil
			}
			return elem.enc(b, v.Elem())
		},
		dec: func(d *decoder, v reflect.Value) error {
			present, err := d.uint32()
			if err != nil || present == 0 {
				v.SetZero()
				return err
			}
			v.Set(reflect.New(t.Elem()))
			return elem.dec(d, v.Elem())
		},
	}, nil
}

func arrayCodec(t reflect.Type, depth int) (*codec, error) {
	n := t.Len()
	if t.Elem().Kind() == reflect.Uint8 {
		return opaqueArrayCodec(n), nil
	}
	elem, err := buildCodec(t.Elem(), 0, depth+1)
	if err != nil {
		return nil, err
	}
	return &codec{
		min: n * elem.min,
		enc: func(b []byte, v reflect.Value) ([]byte, error) { return encElems(elem, b, v, n) },
		dec: func(d *decoder, v reflect.Value) error { return decElems(elem, d, v, n) },
	}, nil
}

func opaqueArrayCodec(n int) *codec {
	return &codec{
		min: n + pad(n),
		enc: func(b []byte, v reflect.Value) ([]byte, error) {
			if v.CanAddr() {
				return appendOpaque(b, v.Bytes()), nil
			}
			for i := range n {
				b = append(b, byte(v.Index(i).Uint()))
			}
			return append(b, "\x00\x00\x00"[:pad(n)]...), nil
		},
		dec: func(d *decoder, v reflect.Value) error {
			raw, err := d.opaque(n)
			if err == nil {
				copy(v.Bytes(), raw)
			}
			return err
		},
	}
}

func sliceCodec(t reflect.Type, limit uint32, depth int) (*codec, error) {
	if t.Elem().Kind() == reflect.Uint8 {
		return opaqueSliceCodec(limit), nil
	}
	elem, err := buildCodec(t.Elem(), 0, depth+1)
	if err != nil {
		return nil, err
	}
	if optionals[t] {
		return optionalCodec(t, elem), nil
	}
	if elem.min == 0 {
		return nil, errors.New("array of elements without a size")
	}
	return &codec{
		min: 4,
		enc: func(b []byte, v reflect.Value) ([]byte, error) {
			if uint64(v.Len()) > uint64(limit) {
				return b, fmt.Errorf("array of %d exceeds the limit of %d", v.Len(), limit)
			}
			b = binary.BigEndian.AppendUint32(b, uint32(v.Len()))
			return encElems(elem, b, v, v.Len())
		},
		dec: func(d *decoder, v reflect.Value) error {
			n, err := d.length(limit, elem.min)
			if err != nil {
				return err
			}
			v.Set(reflect.MakeSlice(t, n, n))
			return decElems(elem, d, v, n)
		},
	}, nil
}

func encElems(elem *codec, b []byte, v reflect.Value, n int) ([]byte, error) {
	for i := range n {
		var err error
		if b, err = elem.enc(b, v.Index(i)); err != nil {
			return b, fmt.Errorf("element %d: %w", i, err)
		}
	}
	return b, nil
}

func decElems(elem *codec, d *decoder, v reflect.Value, n int) error {
	for i := range n {
		if err := elem.dec(d, v.Index(i)); err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
	}
	return nil
}

func opaqueSliceCodec(limit uint32) *codec {
	return &codec{
		min: 4,
		enc: func(b []byte, v reflect.Value) ([]byte, error) {
			if uint64(v.Len()) > uint64(limit) {
				return b, fmt.Errorf("%d bytes exceed the limit of %d", v.Len(), limit)
			}
			b = binary.BigEndian.AppendUint32(b, uint32(v.Len()))
			return appendOpaque(b, v.Bytes()), nil
		},
		dec: func(d *decoder, v reflect.Value) error {
			n, err := d.length(limit, 1)
			if err != nil {
				return err
			}
			raw, err := d.opaque(n)
			if err == nil {
				v.SetBytes(append([]byte(nil), raw...))
			}
			return err
		},
	}
}

// optionalCodec is optional data held in a slice of zero or one. Any nonzero flag means present: some clients send 1 in the
// wrong byte order.
func optionalCodec(t reflect.Type, elem *codec) *codec {
	return &codec{
		min: 4,
		enc: func(b []byte, v reflect.Value) ([]byte, error) {
			if v.Len() > 1 {
				return b, fmt.Errorf("optional value holds %d values", v.Len())
			}
			b = binary.BigEndian.AppendUint32(b, uint32(v.Len()))
			return encElems(elem, b, v, v.Len())
		},
		dec: func(d *decoder, v reflect.Value) error {
			present, err := d.uint32()
			if err != nil || present == 0 {
				v.SetZero()
				return err
			}
			v.Set(reflect.MakeSlice(t, 1, 1))
			return elem.dec(d, v.Index(0))
		},
	}
}
