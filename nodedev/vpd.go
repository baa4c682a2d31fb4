package nodedev

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"virtd/domain/xmltree"
)

// maxVPD is the most that the address field of the VPD capability reaches (PCI Express Base Specification, 6.27).
const maxVPD = 32 << 10

// The resources of vital product data (PCI Express Base Specification, 6.27.1): a large one has bit 7 set in its tag and two
// bytes of length, a small one has its length in the tag.
const (
	vpdLarge = 0x80
	vpdName  = 0x82 // identifier string
	vpdR     = 0x90 // read-only fields
	vpdW     = 0x91 // fields that can be written
	vpdEnd   = 0x78 // small; its length does not count
)

// vpd is what a card says of itself.
type vpd struct {
	name  string
	read  *vpdFields // nil: no such resource
	write *vpdFields
}

// vpdFields are the texts of a resource in their order.
type vpdFields struct{ list []vpdField }

type vpdField struct{ keyword, value string }

var errVPD = errors.New("not vital product data")

// parseVPD reads vital product data. Cards carry any bytes there: what does not end within the data, or has a checksum that
// is wrong, is refused as a whole, as libvirt does; fields that are not text are left out.
func parseVPD(data []byte) (*vpd, error) {
	v := &vpd{}
	named := false
	for at := 0; at < len(data); {
		tag := data[at]
		if tag&^7 == vpdEnd {
			if !named {
				return nil, errVPD
			}
			return v, nil
		}
		head, length := 1, int(tag&7)
		if tag&vpdLarge != 0 {
			if at+3 > len(data) {
				return nil, errVPD
			}
			head, length = 3, int(binary.LittleEndian.Uint16(data[at+1:]))
		}
		begin, end := at+head, at+head+length
		if end > len(data) {
			return nil, errVPD
		}
		if err := v.resource(tag, data, begin, end, named); err != nil {
			return nil, err
		}
		named = named || tag == vpdName
		at = end
	}
	return nil, errVPD
}

// resource takes in one resource, whose contents are data[begin:end].
func (v *vpd) resource(tag byte, data []byte, begin, end int, named bool) error {
	var err error
	switch tag {
	case vpdName:
		v.name, _ = vpdText(data[begin:end])
	case vpdR, vpdW:
		if !named { // the name comes first
			return errVPD
		}
		fields := &v.read
		if tag == vpdW {
			fields = &v.write
		}
		if *fields == nil {
			*fields, err = parseFields(data, begin, end, tag == vpdR)
		}
	}
	return err
}

// parseFields reads data[begin:end]: each field is a keyword of two letters, a length, and its value. Those that are read-only
// end with the checksum RV, whose first byte makes the sum of all bytes up to it 0.
func parseFields(data []byte, begin, end int, readOnly bool) (*vpdFields, error) {
	f := &vpdFields{}
	checked := false
	for at := begin; at < end; {
		if at+3 > end || at+3+int(data[at+2]) > end {
			return nil, errVPD
		}
		keyword, value := string(data[at:at+2]), data[at+3:at+3+int(data[at+2])]
		at += 3 + len(value)
		switch keyword {
		case "RV":
			if !readOnly || len(value) == 0 || sum(data[:at-len(value)+1]) != 0 {
				return nil, errVPD
			}
			checked = true
		case "RW": // room that is left
		default:
			if text, ok := vpdText(value); ok && !f.has(keyword) {
				f.list = append(f.list, vpdField{keyword, text})
			}
		}
	}
	if readOnly && !checked {
		return nil, errVPD
	}
	return f, nil
}

func sum(data []byte) (s byte) {
	for _, b := range data {
		s += b
	}
	return s
}

// vpdText returns a value that is text, without what pads it. The characters are those that libvirt's schema allows.
func vpdText(value []byte) (string, bool) {
	text, _, _ := strings.Cut(string(value), "\x00")
	text = strings.TrimSpace(text)
	for _, c := range []byte(text) {
		if (c < ' ' || c > '_') && (c < 'a' || c > 'z') {
			return "", false
		}
	}
	return text, len(text) <= 255
}

func (f *vpdFields) has(keyword string) bool {
	for _, field := range f.list {
		if field.keyword == keyword {
			return true
		}
	}
	return false
}

// append adds the fields with names of their own in the order of these, then those of vendor and system.
func (f *vpdFields) append(c *xmltree.Node, access string, names ...string) {
	if f == nil {
		return
	}
	e := c.Append(xmltree.New("fields", "access", access))
	for i := 0; i < len(names); i += 2 {
		for _, field := range f.list {
			if field.keyword == names[i] {
				e.Append(xmltree.NewText(names[i+1], field.value))
			}
		}
	}
	for _, kind := range []struct {
		letter  byte
		element string
		written bool
	}{{'V', "vendor_field", false}, {'Y', "system_field", true}} {
		for _, field := range f.list {
			index := field.keyword[1]
			isIndex := index >= '0' && index <= '9' || index >= 'A' && index <= 'Z'
			if field.keyword[0] == kind.letter && isIndex && field.keyword != "YA" && (!kind.written || access == "readwrite") {
				e.Append(xmltree.NewText(kind.element, field.value, "index", string(index)))
			}
		}
	}
}

func (v *vpd) element() *xmltree.Node {
	c := xmltree.New("capability", "type", VPD)
	c.Append(xmltree.NewText("name", v.name))
	v.read.append(c, "readonly", "EC", "change_level", "MN", "manufacture_id", "PN", "part_number", "SN", "serial_number")
	v.write.append(c, "readwrite", "YA", "asset_tag")
	return c
}

// vpdCache keeps which functions have vital product data that can be read: a card may take a second to give it away.
type vpdCache struct {
	mu    sync.Mutex
	known map[string]vpdKnown // by the path of the device
}

type vpdKnown struct {
	inode uint64 // another card at the same place has another file
	has   bool
}

// hasVPD reports whether a function has vital product data that can be described.
func (s *sysfs) hasVPD(dev string) bool {
	st, err := os.Stat(filepath.Join(s.root, dev, "vpd"))
	if err != nil {
		return false
	}
	var inode uint64
	if raw, ok := st.Sys().(*syscall.Stat_t); ok {
		inode = raw.Ino
	}
	s.vpds.mu.Lock()
	known, ok := s.vpds.known[dev]
	s.vpds.mu.Unlock()
	if ok && known.inode == inode {
		return known.has
	}
	has := s.vpd(dev) != nil
	s.vpds.mu.Lock()
	defer s.vpds.mu.Unlock()
	s.vpds.known[dev] = vpdKnown{inode, has}
	return has
}

// vpd reads a function's vital product data, nil if it has none that can be described.
func (s *sysfs) vpd(dev string) *vpd {
	data, err := s.bytes(maxVPD, dev, "vpd")
	if err != nil {
		return nil // for root only
	}
	v, err := parseVPD(data)
	if err != nil {
		return nil
	}
	return v
}
