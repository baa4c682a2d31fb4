package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"sync"
)

// StringMax is the longest string on the wire, in bytes: libvirt's REMOTE_STRING_MAX.
const StringMax = 4 << 20

// ErrShort is the reason of a decoding error when the data ends before the value does.
var ErrShort = errors.New("data ends early")

// Marshal appends the XDR form (RFC 4506) of the value that v points to. It fails when a field exceeds the limit that the
// protocol sets, so that a reply no client could decode is never sent.
func Marshal(b []byte, v any) ([]byte, error) {
	if raw, ok := v.(Raw); ok {
		return append(b, raw...), nil
	}
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Pointer || rv.IsNil() {
		return b, fmt.Errorf("xdr: marshal %T: need a pointer to a value", v)
	}
	c, err := codecFor(rv.Type().Elem(), 0)
	if err != nil {
		return b, err
	}
	out, err := c.enc(b, rv.Elem())
	if err != nil {
		return b, fmt.Errorf("xdr: marshal %s: %w", rv.Type().Elem(), err)
	}
	return out, nil
}

// Unmarshal decodes data into the value that v points to and demands that all of it is used. It allocates no more than a
// small multiple of len(data), whatever lengths data claims.
func Unmarshal(data []byte, v any) error {
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Pointer || rv.IsNil() {
		return fmt.Errorf("xdr: unmarshal into %T: need a pointer to a value", v)
	}
	c, err := codecFor(rv.Type().Elem(), 0)
	if err != nil {
		return err
	}
	d := decoder{data: data}
	if err := c.dec(&d, rv.Elem()); err != nil {
		return fmt.Errorf("xdr: unmarshal %s: %w", rv.Type().Elem(), err)
	}
	if len(d.data) != 0 {
		return fmt.Errorf("xdr: unmarshal %s: %d bytes left over", rv.Type().Elem(), len(d.data))
	}
	return nil
}

// codec is the compiled plan of one type with one length limit.
type codec struct {
	min int // the fewest bytes a value takes on the wire; bounds hostile counts
	enc func(b []byte, v reflect.Value) ([]byte, error)
	dec func(d *decoder, v reflect.Value) error
}

type codecKey struct {
	t     reflect.Type
	limit uint32
}

var codecs sync.Map // codecKey -> *codec

// codecFor returns the plan for t; limit bounds it when it is an array or string (0: the protocol's string limit).
func codecFor(t reflect.Type, limit uint32) (*codec, error) {
	key := codecKey{t, limit}
	if c, ok := codecs.Load(key); ok {
		return c.(*codec), nil
	}
	c, err := buildCodec(t, limit, 0)
	if err != nil {
		return nil, fmt.Errorf("xdr: type %s: %w", t, err)
	}
	actual, _ := codecs.LoadOrStore(key, c)
	return actual.(*codec), nil
}

// decoder walks the data that is still undecoded.
type decoder struct {
	data []byte
}

func (d *decoder) uint32() (uint32, error) {
	if len(d.data) < 4 {
		return 0, ErrShort
	}
	v := binary.BigEndian.Uint32(d.data)
	d.data = d.data[4:]
	return v, nil
}

func (d *decoder) uint64() (uint64, error) {
	if len(d.data) < 8 {
		return 0, ErrShort
	}
	v := binary.BigEndian.Uint64(d.data)
	d.data = d.data[8:]
	return v, nil
}

// opaque returns the next n bytes, which alias the input, and skips their padding.
func (d *decoder) opaque(n int) ([]byte, error) {
	padded := n + pad(n)
	if n < 0 || padded < n || len(d.data) < padded {
		return nil, ErrShort
	}
	b := d.data[:n:n]
	d.data = d.data[padded:]
	return b, nil
}

// length reads an array's or string's length and checks it against its limit and the data that is left.
func (d *decoder) length(limit uint32, min int) (int, error) {
	n, err := d.uint32()
	if err != nil {
		return 0, err
	}
	if n > limit {
		return 0, fmt.Errorf("length %d exceeds the limit of %d", n, limit)
	}
	if uint64(n)*uint64(min) > uint64(len(d.data)) {
		return 0, ErrShort
	}
	return int(n), nil
}

// pad is how many zero bytes follow n bytes of opaque data.
func pad(n int) int { return -n & 3 }

func appendOpaque(b, data []byte) []byte {
	b = append(b, data...)
	return append(b, "\x00\x00\x00"[:pad(len(data))]...)
}

// Raw is encoded arguments, for those who make them themselves: Marshal appends it as it is.
type Raw []byte
