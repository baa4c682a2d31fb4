package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
)

func intCodec(bits int) *codec {
	return &codec{
		min: 4,
		enc: func(b []byte, v reflect.Value) ([]byte, error) {
			return binary.BigEndian.AppendUint32(b, uint32(int32(v.Int()))), nil
		},
		dec: func(d *decoder, v reflect.Value) error {
			u, err := d.uint32()
			if err != nil {
				return err
			}
			// As in C, a char takes the low bits of its four bytes.
			v.SetInt(int64(int32(u)) << (64 - bits) >> (64 - bits))
			return nil
		},
	}
}

func uintCodec(bits int) *codec {
	return &codec{
		min: 4,
		enc: func(b []byte, v reflect.Value) ([]byte, error) {
			return binary.BigEndian.AppendUint32(b, uint32(v.Uint())), nil
		},
		dec: func(d *decoder, v reflect.Value) error {
			u, err := d.uint32()
			if err != nil {
				return err
			}
			v.SetUint(uint64(u) << (64 - bits) >> (64 - bits))
			return nil
		},
	}
}

var int64Codec = &codec{
	min: 8,
	enc: func(b []byte, v reflect.Value) ([]byte, error) {
		return binary.BigEndian.AppendUint64(b, uint64(v.Int())), nil
	},
	dec: func(d *decoder, v reflect.Value) error {
		u, err := d.uint64()
		if err == nil {
			v.SetInt(int64(u))
		}
		return err
	},
}

var uint64Codec = &codec{
	min: 8,
	enc: func(b []byte, v reflect.Value) ([]byte, error) {
		return binary.BigEndian.AppendUint64(b, v.Uint()), nil
	},
	dec: func(d *decoder, v reflect.Value) error {
		u, err := d.uint64()
		if err == nil {
			v.SetUint(u)
		}
		return err
	},
}

var float64Codec = &codec{
	min: 8,
	enc: func(b []byte, v reflect.Value) ([]byte, error) {
		return binary.BigEndian.AppendUint64(b, math.Float64bits(v.Float())), nil
	},
	dec: func(d *decoder, v reflect.Value) error {
		u, err := d.uint64()
		if err == nil {
			v.SetFloat(math.Float64frombits(u))
		}
		return err
	},
}

var boolCodec = &codec{
	min: 4,
	enc: func(b []byte, v reflect.Value) ([]byte, error) {
		return binary.BigEndian.AppendUint32(b, flag(v.Bool())), nil
	},
	dec: func(d *decoder, v reflect.Value) error {
		u, err := d.uint32()
		if err == nil {
			v.SetBool(u != 0)
		}
		return err
	},
}

func flag(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

func stringCodec(limit uint32) *codec {
	return &codec{
		min: 4,
		enc: func(b []byte, v reflect.Value) ([]byte, error) { return appendString(b, v.String(), limit) },
		dec: func(d *decoder, v reflect.Value) error {
			s, err := d.str(limit)
			if err == nil {
				v.SetString(s)
			}
			return err
		},
	}
}

func appendString(b []byte, s string, limit uint32) ([]byte, error) {
	if uint64(len(s)) > uint64(limit) {
		return b, fmt.Errorf("string of %d bytes exceeds the limit of %d", len(s), limit)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	b = append(b, s...)
	return append(b, "\x00\x00\x00"[:pad(len(s))]...), nil
}

// str decodes a string. C ends strings at a NUL; one that holds a NUL means two different things to two programs.
func (d *decoder) str(limit uint32) (string, error) {
	n, err := d.length(limit, 1)
	if err != nil {
		return "", err
	}
	raw, err := d.opaque(n)
	if err != nil {
		return "", err
	}
	s := string(raw)
	if strings.IndexByte(s, 0) >= 0 {
		return "", errors.New("string holds a NUL byte")
	}
	return s, nil
}
