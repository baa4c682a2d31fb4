package rpc

import (
	"encoding/binary"
	"fmt"
	"math"
	"reflect"

	libvirt "github.com/digitalocean/go-libvirt"
)

// The discriminants of a typed parameter's value: libvirt's virTypedParameterType.
const (
	paramInt     = 1
	paramUint    = 2
	paramLlong   = 3
	paramUllong  = 4
	paramDouble  = 5
	paramBoolean = 6
	paramString  = 7
)

// typedParamCodec is the protocol's only union: a type number and a value of that type.
func typedParamCodec() *codec {
	return &codec{
		min: 8,
		enc: func(b []byte, v reflect.Value) ([]byte, error) {
			p := v.Interface().(libvirt.TypedParamValue)
			return appendParam(b, p)
		},
		dec: func(d *decoder, v reflect.Value) error {
			p, err := d.param()
			if err == nil {
				v.Set(reflect.ValueOf(p))
			}
			return err
		},
	}
}

func appendParam(b []byte, p libvirt.TypedParamValue) ([]byte, error) {
	b = binary.BigEndian.AppendUint32(b, p.D)
	switch val := p.I.(type) {
	case int32:
		if p.D == paramInt || p.D == paramBoolean {
			return binary.BigEndian.AppendUint32(b, uint32(val)), nil
		}
	case uint32:
		if p.D == paramUint {
			return binary.BigEndian.AppendUint32(b, val), nil
		}
	case int64:
		if p.D == paramLlong {
			return binary.BigEndian.AppendUint64(b, uint64(val)), nil
		}
	case uint64:
		if p.D == paramUllong {
			return binary.BigEndian.AppendUint64(b, val), nil
		}
	case float64:
		if p.D == paramDouble {
			return binary.BigEndian.AppendUint64(b, math.Float64bits(val)), nil
		}
	case string:
		if p.D == paramString {
			return appendString(b, val, StringMax)
		}
	}
	return b, fmt.Errorf("typed parameter of type %d holds a %T", p.D, p.I)
}

func (d *decoder) param() (libvirt.TypedParamValue, error) {
	kind, err := d.uint32()
	if err != nil {
		return libvirt.TypedParamValue{}, err
	}
	p := libvirt.TypedParamValue{D: kind}
	switch kind {
	case paramInt, paramBoolean:
		var u uint32
		u, err = d.uint32()
		p.I = int32(u)
	case paramUint:
		p.I, err = d.uint32()
	case paramLlong:
		var u uint64
		u, err = d.uint64()
		p.I = int64(u)
	case paramUllong:
		p.I, err = d.uint64()
	case paramDouble:
		var u uint64
		u, err = d.uint64()
		p.I = math.Float64frombits(u)
	case paramString:
		p.I, err = d.str(StringMax)
	default:
		err = fmt.Errorf("unknown type %d of typed parameter", kind)
	}
	return p, err
}

// ParamInt returns a typed parameter of type INT.
func ParamInt(field string, v int32) libvirt.TypedParam {
	return libvirt.TypedParam{Field: field, Value: libvirt.TypedParamValue{D: paramInt, I: v}}
}

// ParamUint returns a typed parameter of type UINT.
func ParamUint(field string, v uint32) libvirt.TypedParam {
	return libvirt.TypedParam{Field: field, Value: libvirt.TypedParamValue{D: paramUint, I: v}}
}

// ParamLlong returns a typed parameter of type LLONG.
func ParamLlong(field string, v int64) libvirt.TypedParam {
	return libvirt.TypedParam{Field: field, Value: libvirt.TypedParamValue{D: paramLlong, I: v}}
}

// ParamUllong returns a typed parameter of type ULLONG.
func ParamUllong(field string, v uint64) libvirt.TypedParam {
	return libvirt.TypedParam{Field: field, Value: libvirt.TypedParamValue{D: paramUllong, I: v}}
}

// ParamBoolean returns a typed parameter of type BOOLEAN.
func ParamBoolean(field string, v bool) libvirt.TypedParam {
	return libvirt.TypedParam{Field: field, Value: libvirt.TypedParamValue{D: paramBoolean, I: int32(flag(v))}}
}

// ParamString returns a typed parameter of type STRING.
func ParamString(field, v string) libvirt.TypedParam {
	return libvirt.TypedParam{Field: field, Value: libvirt.TypedParamValue{D: paramString, I: v}}
}
