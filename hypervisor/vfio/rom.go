package vfio

import (
	"fmt"
	"math/bits"
	"sync"

	"virtd/hypervisor/pci"
)

// MaxROM is the largest expansion ROM, in bytes.
const MaxROM = pci.MostROM

// romPiece is how many bytes of a ROM are read at once: some take long.
const romPiece = 64 << 10

// CheckROM refuses an image that is not an expansion ROM (PCI 3.0, 6.3.1.1: it begins with 55h AAh).
func CheckROM(image []byte) error {
	switch {
	case len(image) > MaxROM:
		return fmt.Errorf("an expansion ROM has at most %d bytes", MaxROM)
	case len(image) < 3 || image[0] != 0x55 || image[1] != 0xaa:
		return fmt.Errorf("it is no expansion ROM: it does not begin with 55 AA")
	}
	return nil
}

// rom is the expansion ROM that a guest sees. That of a device is read when the guest first looks at it: few do.
type rom struct {
	f     *Function
	load  sync.Once
	image []byte
}

// addROM gives the function its ROM, if it has one.
func (f *Function) addROM(c Config) {
	size := uint64(len(c.ROM))
	if size == 0 {
		size = f.dev.ROMSize()
	}
	if c.NoROM || size == 0 {
		return
	}
	if size > MaxROM {
		f.logf("%s: its ROM of %#x bytes is larger than one can be: the guest does not get it", f.name, size)
		return
	}
	size = max(uint64(1)<<bits.Len64(size-1), pci.LeastROM)
	r := &rom{f: f, image: c.ROM}
	if c.ROM != nil {
		r.load.Do(func() {})
	}
	f.pci.AddROM(size, r)
}

// Read implements bus.Device. What is behind the image reads as all ones.
func (r *rom) Read(offset uint64, p []byte) {
	r.load.Do(r.read)
	n := 0
	if offset < uint64(len(r.image)) {
		n = copy(p, r.image[offset:])
	}
	for i := n; i < len(p); i++ {
		p[i] = 0xff
	}
}

// Write implements bus.Device: it is read-only.
func (r *rom) Write(uint64, []byte) {}

// read takes the image from the device, which decodes memory: the guest sees its ROM.
func (r *rom) read() {
	image := make([]byte, min(r.f.dev.ROMSize(), MaxROM))
	n, err := r.f.dev.ReadROM(image)
	if err == nil {
		err = CheckROM(image[:n])
	}
	if err != nil {
		r.f.logf("%s: the guest gets no ROM: %v", r.f.name, err)
		return
	}
	r.image = image[:n]
}
