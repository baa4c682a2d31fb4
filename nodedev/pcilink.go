package nodedev

import (
	"encoding/binary"
	"strconv"
	"strings"

	"virtd/domain/xmltree"
)

// configSize is how much of a function's configuration space is looked at: the part with the classic capabilities. Users
// without privileges get its first 64 bytes only.
const configSize = 256

// The header types of PCI functions, without the bit for multifunction devices.
const (
	headerEndpoint = 0
	headerBridge   = 1
	headerCardBus  = 2
)

// headerType reads the kind of function from its configuration space; 0, an ordinary one, where that is not readable.
func headerType(config []byte) byte {
	if len(config) < 0x40 {
		return 0
	}
	return config[0x0e] & 0x7f
}

// expressLink is one end of what a link can do, or does.
type expressLink struct {
	speed string // GT/s as text; "" when not known
	width uint64
}

func (l expressLink) element(validity string, port int) *xmltree.Node {
	e := xmltree.New("link", "validity", validity)
	if port >= 0 {
		e.SetAttr("port", strconv.Itoa(port))
	}
	if l.speed != "" {
		e.SetAttr("speed", l.speed)
	}
	e.SetAttr("width", strconv.FormatUint(l.width, 10))
	return e
}

// speeds are in GT/s, by the number that the link registers have for them.
var speeds = []string{"", "2.5", "5", "8", "16", "32", "64"}

// express describes the link of a PCI Express function; nil for others. The configuration space knows the port too; where
// it is closed to us, sysfs tells the rest.
func (h *host) express(n *node, config []byte) *xmltree.Node {
	if len(config) <= 0x40 {
		return h.expressFromAttributes(n)
	}
	at := expressCapability(config)
	if at == 0 {
		return nil
	}
	e := xmltree.New("pci-express")
	switch config[at+2] >> 4 & 0xf {
	case 0x9, 0xa: // inside of a root complex, without a link
		return e
	}
	capability := binary.LittleEndian.Uint32(config[at+0x0c:])
	status := binary.LittleEndian.Uint16(config[at+0x12:])
	e.Append(expressLink{speed(int(capability & 0xf)), uint64(capability >> 4 & 0x3f)}.element("cap", int(capability>>24)))
	e.Append(expressLink{speed(int(status & 0xf)), uint64(status >> 4 & 0x3f)}.element("sta", -1))
	return e
}

func speed(number int) string {
	if number < len(speeds) {
		return speeds[number]
	}
	return ""
}

// expressCapability walks the list of capabilities and returns where PCI Express's begins, or 0. Devices write this list, so
// it may be a loop.
func expressCapability(config []byte) int {
	const (
		statusHasList  = 1 << 4
		express        = 0x10
		sizeToTheLinks = 0x14
	)
	if len(config) < configSize || config[0x06]&statusHasList == 0 {
		return 0
	}
	pointer := 0x34
	if headerType(config) == headerCardBus {
		pointer = 0x14
	}
	at := int(config[pointer] &^ 3)
	for range configSize / 4 {
		if at < 0x40 {
			return 0
		}
		if config[at] == express {
			if at+sizeToTheLinks > len(config) {
				return 0
			}
			return at
		}
		at = int(config[at+1] &^ 3)
	}
	return 0
}

// expressFromAttributes goes by what the kernel made of the registers ("8.0 GT/s PCIe", "4").
func (h *host) expressFromAttributes(n *node) *xmltree.Node {
	e := xmltree.New("pci-express")
	for _, end := range []struct{ validity, attr string }{{"cap", "max"}, {"sta", "current"}} {
		width, ok := h.number(n.Path, end.attr+"_link_width", 10)
		if !ok {
			return nil
		}
		text, _, _ := strings.Cut(h.attr(n.Path, end.attr+"_link_speed"), " ")
		text = strings.TrimSuffix(text, ".0")
		if _, err := strconv.ParseFloat(text, 32); err != nil {
			text = "" // "Unknown"
		}
		e.Append(expressLink{text, width}.element(end.validity, -1))
	}
	return e
}
