package vfio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"virtd/hypervisor/interrupt"
	"virtd/hypervisor/pci"
)

// Slots maps host memory into the guest's address space: KVM's memory slots.
type Slots interface {
	// Add maps host at a guest physical address and returns the slot's number.
	Add(gpa uint64, host []byte) (slot int, err error)
	Remove(slot int) error
}

// Peers lets the other devices of the guest reach a BAR by DMA. Container does.
type Peers interface {
	// MapBAR shows host memory, a piece of a BAR, at a guest physical address.
	MapBAR(gpa uint64, host []byte) error
	// UnmapBAR takes back what MapBAR showed at an address.
	UnmapBAR(gpa uint64) error
}

// Config is what a Function is made of.
type Config struct {
	Name   string // for the log
	Device Device
	Slots  Slots
	Peers  Peers // nil: other devices do not reach the BARs
	// ROM is an image in place of the device's expansion ROM, which CheckROM takes; NoROM is no ROM at all.
	ROM        []byte
	NoROM      bool
	Interrupts interrupt.Controller
	Levels     interrupt.Levels
	Notices    Notices
	Logf       func(format string, args ...any)
}

// Function is a function of the host in a guest. It owns its Device.
//
// Its hooks run with the PCI function's access lock held, one at a time; so do BAR maps and the reset.
type Function struct {
	name   string
	dev    Device
	pci    *pci.Function
	bars   []*bar
	msix   *pci.MSIX // nil when the device has none
	msi    *msi      // nil when the device has MSI-X, or no MSI
	intx   *intx     // nil when the device has no pin
	local  []bool    // registers that are not the device's, by offset
	size   int       // of configuration space
	log    func(string, ...any)
	active bool // MSI-X vectors signal
	peers  Peers
	lonely atomic.Bool // somebody was told that other devices cannot reach it

	notices notices

	pin sync.Mutex // what intx does: boards wire pins from other functions' hooks

	logMu     sync.Mutex // BARs are mapped for other functions' sake too
	logSecond int64
	logCount  int
}

// logLinesPerSecond is how much a guest can make a function say: it can write what a host refuses as often as it likes.
const logLinesPerSecond = 5

// logf reports, without letting the guest fill the log.
func (f *Function) logf(format string, args ...any) {
	f.logMu.Lock()
	defer f.logMu.Unlock()
	if now := time.Now().Unix(); now != f.logSecond {
		f.logSecond, f.logCount = now, 0
	}
	if f.logCount++; f.logCount <= logLinesPerSecond {
		f.log(format, args...)
	}
}

// New builds the guest's view of a device, which was just reset.
func New(c Config) (*Function, error) {
	if c.Logf == nil {
		c.Logf = func(string, ...any) {}
	}
	f := &Function{name: c.Name, dev: c.Device, peers: c.Peers, log: c.Logf}
	regions := c.Device.Regions()
	f.size = conventional
	if regions[6].Size >= express {
		f.size = express
	}
	config := make([]byte, f.size)
	for at := 0; at < f.size; at += 4 {
		c.Device.Read(6, config[at:at+4], uint64(at))
	}
	if v := binary.LittleEndian.Uint16(config); v == 0xffff || v == 0 || config[regHeaderType]&^headerMulti != 0 {
		return nil, fmt.Errorf("its configuration space reads as vendor %#04x with header type %#x: it is gone, or no endpoint", v, config[regHeaderType])
	}
	list, err := bars(config, regions)
	if err != nil {
		return nil, err
	}
	original := append([]byte(nil), config...)
	hasMSIX := false
	for _, c := range capabilities(config) {
		hasMSIX = hasMSIX || c.id == capMSIX
	}
	hide(config, func(id int) bool { return id == capEA || id == capMSI && hasMSIX })
	f.pci = pci.NewForwarded(config)
	for _, b := range list {
		f.addBAR(b, regions[b.Index], c.Slots)
	}
	f.addROM(c)
	f.forward(config)
	if err := f.addInterrupts(original, c.Interrupts, c.Levels); err != nil {
		return nil, err
	}
	if err := f.notices.listen(c.Device, c.Notices); err != nil {
		return nil, errors.Join(err, f.notices.close(c.Device))
	}
	return f, nil
}

// PCI returns what the guest sees, for Root.Add.
func (f *Function) PCI() *pci.Function { return f.pci }

// forward lets guest accesses to capabilities reach the device, but for what the engine answers itself: the header and the
// pointers of the lists.
func (f *Function) forward(config []byte) {
	f.local = make([]bool, f.size)
	for i := range endHeader {
		f.local[i] = true
	}
	for _, c := range capabilities(config) {
		f.local[c.at], f.local[c.at+1] = true, true
	}
	for at, n := conventional, 0; at >= conventional && at <= f.size-4 && n < 256; n++ {
		for i := range 4 {
			f.local[at+i] = true
		}
		next := int(binary.LittleEndian.Uint32(config[at:])>>20) &^ 3
		if next <= at {
			break
		}
		at = next
	}
	f.pci.OnCommand(func(command uint16) {
		f.dev.Write(6, binary.LittleEndian.AppendUint16(nil, command), regCommand)
		if f.msi != nil {
			f.msi.changed()
		}
		f.syncINTx(command)
	})
	f.pci.OnPower(func(at int) uint8 {
		f.dev.Write(6, binary.LittleEndian.AppendUint16(nil, f.pci.Uint16(at)), uint64(at))
		var state [2]byte
		f.dev.Read(6, state[:], uint64(at))
		return state[0]
	})
	f.pci.OnRead(regStatus, 2, func(int, int) { f.refresh(regStatus, regStatus+2) })
	f.pci.OnRead(endHeader, f.size-endHeader, func(at, n int) { f.refresh(max(at, endHeader), min(at+n, f.size)) })
	f.pci.OnWrite(endHeader, f.size-endHeader, f.written)
	f.pci.OnReset(f.reset)
}

// claim makes registers the engine's own. The others of the capabilities are stored as written, for written to hand over.
func (f *Function) claim(at, n int) {
	for i := at; i < at+n && i < f.size; i++ {
		f.local[i] = true
	}
}

// share lets the guest write what is not the engine's.
func (f *Function) share() {
	for i := endHeader; i < f.size; i++ {
		if !f.local[i] {
			f.pci.Writable(i, 0xff)
		}
	}
}

// refresh reads the device's registers from one offset to another.
func (f *Function) refresh(from, to int) {
	if from == regStatus { // the engine's but for the errors that the device saw
		var b [2]byte
		f.dev.Read(6, b[:], regStatus)
		f.pci.SetBytes(regStatus, b[:])
		return
	}
	f.runs(from, to, func(at int, p []byte) {
		f.dev.Read(6, p, uint64(at))
		f.pci.SetBytes(at, p)
	})
}

// written hands a guest write over. An access is at most eight bytes wide.
func (f *Function) written(at, n int) {
	f.runs(max(at, endHeader), min(at+n, f.size), func(at int, p []byte) {
		f.pci.Bytes(at, p)
		f.dev.Write(6, p, uint64(at))
	})
	f.syncMSIX()
	if f.msi != nil && at < f.msi.at+f.msi.size && f.msi.at < at+n {
		f.msi.changed()
	}
	f.syncINTx(f.pci.Uint16(regCommand))
}

// runs calls do for each run of registers that are the device's: at most a double word each, aligned, as configuration space
// is accessed.
func (f *Function) runs(from, to int, do func(at int, p []byte)) {
	var buf [4]byte
	for at := from; at < to; {
		if f.local[at] {
			at++
			continue
		}
		n := 1
		for at+n < to && !f.local[at+n] && (at+n)%4 != 0 {
			n++
		}
		if n == 3 { // there is no access of three bytes
			n = 1 + at%2
		}
		if n == 2 && at%2 != 0 {
			n = 1
		}
		do(at, buf[:n])
		at += n
	}
}

// syncMSIX switches the device's vectors on and off as the guest does MSI-X. All of them signal at once: a masked one stays
// pending in its eventfd.
func (f *Function) syncMSIX() {
	if f.msix == nil || f.msix.Enabled() == f.active {
		return
	}
	var fds []int
	if f.msix.Enabled() {
		f.intx.set(false)
		for i := range f.msix.Len() {
			fds = append(fds, f.msix.Vector(i).FD())
		}
	}
	if err := f.dev.SetInterrupts(true, fds); err != nil {
		f.logf("%s: %v", f.name, err)
		return
	}
	f.active = !f.active
}

// addInterrupts finds MSI-X, else MSI, and the pin.
func (f *Function) addInterrupts(config []byte, c interrupt.Controller, levels interrupt.Levels) error {
	defer f.share()
	lines, msi, msix := f.dev.Vectors()
	if pin := config[regInterruptPin]; lines > 0 && pin >= 1 && pin <= 4 {
		if err := f.addINTx(pin, levels); err != nil {
			return err
		}
	}
	le := binary.LittleEndian
	for _, cap := range capabilities(config) {
		switch {
		case cap.id == capMSIX && cap.at+12 <= conventional && msix > 0:
			n := min(int(le.Uint16(config[cap.at+2:])&0x7ff)+1, msix)
			table, pba := le.Uint32(config[cap.at+4:]), le.Uint32(config[cap.at+8:])
			at := func(v uint32) pci.MSIXPlace { return pci.MSIXPlace{BAR: int(v & 7), Offset: uint64(v &^ 7)} }
			if !f.holds(at(table), uint64(n)*16) || !f.holds(at(pba), uint64(n+63)/64*8) {
				return errors.New("its MSI-X table is not in one of its BARs")
			}
			m, err := f.pci.AddMSIXAt(cap.at, n, c, at(table), at(pba))
			if err != nil {
				return err
			}
			f.msix = m
			f.claim(cap.at, 12)
			f.trap(int(table&7), uint64(table&^7), uint64(n)*16)
			f.trap(int(pba&7), uint64(pba&^7), uint64(n+63)/64*8)
			return nil
		case cap.id == capMSI && msi > 0 && f.msix == nil && f.msi == nil:
			f.msi = newMSI(f, cap.at, config, min(msi, maxInterruptsOfMSI), c)
			if f.msi == nil {
				return errors.New("its MSI capability does not fit configuration space")
			}
			f.claim(cap.at, f.msi.size)
		}
	}
	if f.msix == nil && f.msi == nil && f.intx == nil {
		return errors.New("it has no interrupts: neither MSI-X nor MSI nor a pin that vfio-pci can signal")
	}
	return nil
}

func (f *Function) holds(p pci.MSIXPlace, size uint64) bool {
	for _, b := range f.bars {
		if b.index == p.BAR {
			return p.Offset <= b.size && size <= b.size-p.Offset
		}
	}
	return false
}

// reset is the machine's or the bus's: no interrupt, no DMA, everything as at power-on.
func (f *Function) reset() {
	f.syncMSIX()
	if f.msi != nil {
		f.msi.changed()
	}
	f.intx.set(false)
	f.dev.Write(6, []byte{0, 0}, regCommand)
	if err := f.dev.Reset(); err != nil {
		f.logf("%s: %v", f.name, err)
	}
}

// Close gives the device up: no guest can reach it any more, and it reaches no guest.
func (f *Function) Close() error {
	errs := []error{f.notices.close(f.dev)}
	f.dev.Write(6, []byte{0, 0}, regCommand)
	errs = append(errs, f.intx.close())
	if f.active {
		errs = append(errs, f.dev.SetInterrupts(true, nil))
	}
	for _, b := range f.bars {
		errs = append(errs, b.close())
	}
	if f.msix != nil {
		errs = append(errs, f.msix.Close())
	}
	if f.msi != nil {
		errs = append(errs, f.msi.close())
	}
	return errors.Join(append(errs, f.dev.Close())...)
}
