package acpi

import (
	"encoding/binary"
	"strings"
)

// aml is encoded AML (ACPI 20.2). The functions below each encode one term; the caller concatenates.
type aml []byte

func join(parts ...aml) aml {
	var out aml
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// withLength prefixes body with PkgLength (20.2.4), which counts itself.
func withLength(body aml) aml {
	n := len(body)
	switch {
	case n+1 < 1<<6:
		return append(aml{byte(n + 1)}, body...)
	case n+2 < 1<<12:
		n += 2
		return append(aml{1<<6 | byte(n&0xf), byte(n >> 4)}, body...)
	case n+3 < 1<<20:
		n += 3
		return append(aml{2<<6 | byte(n&0xf), byte(n >> 4), byte(n >> 12)}, body...)
	default:
		n += 4
		return append(aml{3<<6 | byte(n&0xf), byte(n >> 4), byte(n >> 12), byte(n >> 20)}, body...)
	}
}

// nameString encodes a path such as \_SB.PCI0 (20.2.2). Segments are padded with underscores.
func nameString(path string) aml {
	var out aml
	if strings.HasPrefix(path, `\`) {
		out, path = append(out, '\\'), path[1:]
	}
	if path == "" {
		return append(out, 0)
	}
	segments := strings.Split(path, ".")
	switch len(segments) {
	case 1:
	case 2:
		out = append(out, 0x2e)
	default:
		out = append(out, 0x2f, byte(len(segments)))
	}
	for _, s := range segments {
		out = append(out, (s + "____")[:4]...)
	}
	return out
}

// integer encodes the shortest constant (20.2.3).
func integer(v uint64) aml {
	switch {
	case v == 0:
		return aml{0x00}
	case v == 1:
		return aml{0x01}
	case v < 1<<8:
		return aml{0x0a, byte(v)}
	case v < 1<<16:
		return binary.LittleEndian.AppendUint16(aml{0x0b}, uint16(v))
	case v < 1<<32:
		return binary.LittleEndian.AppendUint32(aml{0x0c}, uint32(v))
	default:
		return binary.LittleEndian.AppendUint64(aml{0x0e}, v)
	}
}

func str(s string) aml { return append(append(aml{0x0d}, s...), 0) }

// eisaID encodes a compressed identifier such as PNP0501 (19.6.36).
func eisaID(id string) aml {
	hex := func(c byte) uint32 { return uint32(strings.IndexByte("0123456789ABCDEF", c)) }
	v := uint32(id[0]-0x40)<<26 | uint32(id[1]-0x40)<<21 | uint32(id[2]-0x40)<<16 |
		hex(id[3])<<12 | hex(id[4])<<8 | hex(id[5])<<4 | hex(id[6])
	return binary.BigEndian.AppendUint32(aml{0x0c}, v)
}

// buffer encodes bytes (20.2.5.4).
func buffer(b []byte) aml {
	return append(aml{0x11}, withLength(join(integer(uint64(len(b))), b))...)
}

// uuid encodes the bytes of ToUUID (19.6.142): the first three groups are little-endian.
func uuid(s string) aml {
	digits := strings.ReplaceAll(s, "-", "")
	raw := make([]byte, 16)
	for i, at := range []int{3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15} {
		hi := strings.IndexByte("0123456789abcdef", digits[2*at])
		lo := strings.IndexByte("0123456789abcdef", digits[2*at+1])
		raw[i] = byte(hi<<4 | lo)
	}
	return buffer(raw)
}

func name(path string, value aml) aml { return join(aml{0x08}, nameString(path), value) }

func scope(path string, body ...aml) aml {
	return append(aml{0x10}, withLength(append(nameString(path), join(body...)...))...)
}

func device(path string, body ...aml) aml {
	return append(aml{0x5b, 0x82}, withLength(append(nameString(path), join(body...)...))...)
}

// method defines a control method; serialized is needed by one that creates named objects.
func method(path string, args int, serialized bool, body ...aml) aml {
	flags := byte(args)
	if serialized {
		flags |= 1 << 3
	}
	return append(aml{0x14}, withLength(join(nameString(path), aml{flags}, join(body...)))...)
}

// pkg is a Package of up to 255 elements.
func pkg(elements ...aml) aml {
	return append(aml{0x12}, withLength(append(aml{byte(len(elements))}, join(elements...)...))...)
}

func arg(i int) aml   { return aml{0x68 + byte(i)} }
func local(i int) aml { return aml{0x60 + byte(i)} }

func store(value, target aml) aml { return join(aml{0x70}, value, target) }
func and(a, b, target aml) aml    { return join(aml{0x7b}, a, b, target) }
func or(a, b, target aml) aml     { return join(aml{0x7d}, a, b, target) }
func equal(a, b aml) aml          { return join(aml{0x93}, a, b) }
func not(a aml) aml               { return join(aml{0x92}, a) }
func ret(value aml) aml           { return join(aml{0xa4}, value) }
func elseDo(body ...aml) aml      { return append(aml{0xa1}, withLength(join(body...))...) }
func ifTrue(c aml, b ...aml) aml  { return append(aml{0xa0}, withLength(append(c, join(b...)...))...) }

// The terms that hotplug needs (20.2.5).
func less(a, b aml) aml           { return join(aml{0x95}, a, b) }
func shiftLeft(a, by, to aml) aml { return join(aml{0x79}, a, by, to) }
func notify(device, code aml) aml { return join(aml{0x86}, device, code) }
func mutex(path string) aml       { return join(aml{0x5b, 0x01}, nameString(path), aml{0}) }
func acquire(path string) aml     { return join(aml{0x5b, 0x23}, nameString(path), aml{0xff, 0xff}) } // without end
func release(path string) aml     { return join(aml{0x5b, 0x27}, nameString(path)) }
func while(c aml, b ...aml) aml   { return append(aml{0xa2}, withLength(append(c, join(b...)...))...) }
func call(path string, args ...aml) aml {
	return append(nameString(path), join(args...)...)
}

// nowhere is the target of a result that nobody keeps.
var nowhere = aml{0}

// ports is an operation region of ports.
func ports(path string, base, size uint64) aml {
	return join(aml{0x5b, 0x80}, nameString(path), aml{0x01}, integer(base), integer(size))
}

// dwords names the 32-bit registers of a region one after the other; "" skips one.
func dwords(region string, names ...string) aml { return registers(region, 32, 3, names) }

// octets is dwords for registers of 8 bits.
func octets(region string, names ...string) aml { return registers(region, 8, 1, names) }

// registers names registers of that many bits, which are accessed as a whole: access is the field's AccessType (19.6.48).
func registers(region string, bits, access byte, names []string) aml {
	const noLock, writeZeroes = 0 << 4, 2 << 5
	body := append(nameString(region), access|noLock|writeZeroes)
	for _, n := range names {
		if n == "" {
			body = append(body, 0)
		} else {
			body = append(body, nameString(n)...)
		}
		body = append(body, bits)
	}
	return append(aml{0x5b, 0x81}, withLength(body)...)
}

func dwordField(b aml, at uint64, field string) aml {
	return join(aml{0x8a}, b, integer(at), nameString(field))
}
