package acpi

import "encoding/binary"

// resources wraps descriptors in a ResourceTemplate: a buffer that ends with an end tag whose checksum of zero means
// unchecked (6.4.2.9).
func resources(descriptors ...aml) aml { return buffer(append(join(descriptors...), 0x79, 0)) }

// ioPort is a fixed range of ports with 16-bit decoding (6.4.2.5).
func ioPort(base uint16, size uint8) aml {
	return aml{0x47, 1, byte(base), byte(base >> 8), byte(base), byte(base >> 8), 1, size}
}

// irq is one ISA interrupt, edge-triggered and active high (6.4.2.1).
func irq(n uint8) aml { return binary.LittleEndian.AppendUint16(aml{0x22}, 1<<n) }

// memory32Fixed is a range of memory, writable or not (6.4.3.4).
func memory32Fixed(base, size uint32) aml {
	d := aml{0x86, 9, 0, 1}
	d = binary.LittleEndian.AppendUint32(d, base)
	return binary.LittleEndian.AppendUint32(d, size)
}

// Address space descriptors (6.4.3.5): what a bridge produces.
const (
	spaceMemory    = 0
	spaceIO        = 1
	spaceBus       = 2
	fixedProducer  = 1<<2 | 1<<3 // minimum and maximum fixed, positive decode, producer
	entireRange    = 3           // I/O: ISA and non-ISA ports
	readWrite      = 1           // memory, not cacheable
	readWriteCache = 1 | 3<<1    // memory, prefetchable
)

func wordSpace(kind, flags byte, first, last uint16) aml {
	d := aml{0x88, 13, 0, kind, fixedProducer, flags}
	for _, v := range []uint16{0, first, last, 0, last - first + 1} {
		d = binary.LittleEndian.AppendUint16(d, v)
	}
	return d
}

func dwordSpace(kind, flags byte, first, last uint32) aml {
	d := aml{0x87, 23, 0, kind, fixedProducer, flags}
	for _, v := range []uint32{0, first, last, 0, last - first + 1} {
		d = binary.LittleEndian.AppendUint32(d, v)
	}
	return d
}

func qwordSpace(kind, flags byte, first, last uint64) aml {
	d := aml{0x8a, 43, 0, kind, fixedProducer, flags}
	for _, v := range []uint64{0, first, last, 0, last - first + 1} {
		d = binary.LittleEndian.AppendUint64(d, v)
	}
	return d
}
