package vfio

import (
	"encoding/binary"
	"fmt"

	"virtd/hypervisor/pci"
)

// Registers of the header that the engine answers or hands over (PCI 3.0, 6.1).
const (
	regCommand    = 0x04
	regStatus     = 0x06
	regHeaderType = 0x0e
	regBAR0       = 0x10
	regROM        = 0x30
	regCapPointer = 0x34
	endHeader     = 0x40
	conventional  = 256
	express       = 4096
	statusCaps    = 1 << 4
	headerMulti   = 0x80
)

// Capabilities that a guest does not see, or not the device's (PCI Code and ID Assignment 1.11).
const (
	capMSI  = 0x05
	capMSIX = 0x11
	capEA   = 0x14 // enhanced allocation: BARs that cannot move
)

// hiddenExtended are extended capabilities that a guest must not have: they are about the hierarchy that the device is in on
// the host, or would let the guest change what the engine was told.
var hiddenExtended = map[uint16]string{
	0x000d: "access control", 0x000e: "alternative routing", 0x000f: "address translation", 0x0010: "SR-IOV", 0x0011: "MR-IOV",
	0x0013: "page requests", 0x0015: "resizable BARs", 0x001b: "process address space", 0x0024: "VF resizable BARs",
}

// capability is where one is.
type capability struct{ id, at int }

// capabilities walks the list; a device can have a broken one.
func capabilities(config []byte) []capability {
	if binary.LittleEndian.Uint16(config[regStatus:])&statusCaps == 0 {
		return nil
	}
	var out []capability
	for at := int(config[regCapPointer]) &^ 3; at >= endHeader && len(out) < 48; at = int(config[at+1]) &^ 3 {
		out = append(out, capability{int(config[at]), at})
	}
	return out
}

// hide takes capabilities out of both lists.
func hide(config []byte, hidden func(id int) bool) {
	list := capabilities(config)
	pointer := regCapPointer
	for i, c := range list {
		next := byte(0)
		if i+1 < len(list) {
			next = byte(list[i+1].at)
		}
		if hidden(c.id) {
			config[pointer] = next
			continue
		}
		config[pointer], pointer = byte(c.at), c.at+1
		config[pointer] = next
	}
	if len(config) >= express {
		hideExtended(config)
	}
}

func hideExtended(config []byte) {
	le := binary.LittleEndian
	last := -1
	for at, n := conventional, 0; at >= conventional && at <= express-4 && n < 256; n++ {
		header := le.Uint32(config[at:])
		next := int(header>>20) &^ 3
		switch _, hidden := hiddenExtended[uint16(header)]; {
		case header == 0 || header == 0xffffffff:
			return
		case hidden && last < 0: // the first stays where it is, as one that says nothing
			le.PutUint32(config[at:], header&0xfff00000)
			last = at
		case hidden:
			le.PutUint32(config[last:], le.Uint32(config[last:])&0xfffff|header&0xfff00000)
		default:
			last = at
		}
		if next <= at { // lists of real devices go up; this one would not end
			return
		}
		at = next
	}
}

// bars reads what kind of BARs the device has; their sizes are those of the regions.
func bars(config []byte, regions [7]Region) ([]pci.BAR, error) {
	var out []pci.BAR
	for i := 0; i < 6; i++ {
		size := regions[i].Size
		if size == 0 {
			continue
		}
		low := binary.LittleEndian.Uint32(config[regBAR0+4*i:])
		b := pci.BAR{Index: i, Size: size, Kind: pci.Memory32}
		switch {
		case low&1 != 0:
			b.Kind = pci.IO
		case low&6 == 4:
			b.Kind, b.Prefetchable = pci.Memory64, low&8 != 0
		default:
			b.Prefetchable = low&8 != 0
		}
		if size&(size-1) != 0 || b.Kind == pci.IO && size > 256 || b.Kind != pci.IO && size < 16 || b.Kind == pci.Memory64 && i == 5 {
			return nil, fmt.Errorf("BAR %d of %#x bytes is not one that a PCI function can have", i, size)
		}
		out = append(out, b)
		if b.Kind == pci.Memory64 {
			i++
		}
	}
	return out, nil
}
