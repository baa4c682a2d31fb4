package nodedev

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
)

// maxIDs bounds the file of PCI names that is read; the one that distributions ship has 1.5 MB.
const maxIDs = 16 << 20

// pciIDs finds the names of PCI vendors and devices in the file that lspci uses. A vendor's part is read when its first
// device is asked for, and kept: a host has devices of a few vendors, the file of thousands.
type pciIDs struct {
	files []string // the first that exists counts

	mu      sync.Mutex
	vendors map[uint16]pciVendor
}

type pciVendor struct {
	name    string
	devices map[uint16]string
}

// lookup returns the names, "" where there is none.
func (p *pciIDs) lookup(vendor, device uint16) (vendorName, deviceName string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v, ok := p.vendors[vendor]
	if !ok {
		v = p.read(vendor)
		if p.vendors == nil {
			p.vendors = map[uint16]pciVendor{}
		}
		p.vendors[vendor] = v
	}
	return v.name, v.devices[device]
}

func (p *pciIDs) read(vendor uint16) pciVendor {
	for _, name := range p.files {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		defer f.Close()
		return parseVendor(io.LimitReader(f, maxIDs), vendor)
	}
	return pciVendor{}
}

// parseVendor reads one vendor's part: a line "vvvv  Name", below it "<tab>dddd  Name" for each device, and lines with two
// tabs for subsystems, which libvirt does not tell. The vendors end where the classes ("C 00  ...") begin.
func parseVendor(r io.Reader, vendor uint16) pciVendor {
	v := pciVendor{devices: map[uint16]string{}}
	inside := false
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case line == "" || line[0] == '#' || strings.HasPrefix(line, "\t\t"):
		case line[0] == '\t':
			if id, name, ok := idLine(line[1:]); ok && inside {
				v.devices[id] = name
			}
		case inside:
			return v
		case strings.HasPrefix(line, "C "):
			return v
		default:
			if id, name, ok := idLine(line); ok && id == vendor {
				v.name, inside = name, true
			}
		}
	}
	return v
}

func idLine(line string) (uint16, string, bool) {
	number, name, ok := strings.Cut(line, " ")
	if !ok || len(number) != 4 {
		return 0, "", false
	}
	id, err := strconv.ParseUint(number, 16, 16)
	return uint16(id), clean(name), err == nil
}
