package input

import "encoding/binary"

// Layout of struct virtio_input_config (virtio 1.2, 5.8.4).
const (
	cfgSelect = 0 // u8, written by the driver
	cfgSubsel = 1 // u8, written by the driver
	cfgSize   = 2 // u8, bytes of the answer; 0: there is none
	cfgData   = 8
	maxData   = 128
)

// What the driver can select (enum virtio_input_config_select).
const (
	selectName  = 0x01 // VIRTIO_INPUT_CFG_ID_NAME
	selectIDs   = 0x03 // VIRTIO_INPUT_CFG_ID_DEVIDS
	selectEvent = 0x11 // VIRTIO_INPUT_CFG_EV_BITS: subsel is a type of event
)

// Types of events and codes (linux/input-event-codes.h).
const (
	evSyn = 0x00 // EV_SYN; code 0 is SYN_REPORT
	evKey = 0x01 // EV_KEY
	evRep = 0x14 // EV_REP: the driver may repeat keys that are held
)

// MaxKey is the highest code that a keyboard has: the last before those of buttons.
const MaxKey = 0xf7

// Name is what the guest is told that the device is.
const Name = "virtd virtio keyboard"

// ids is struct virtio_input_devids (5.8.4): bustype, vendor, product, version.
var ids = [4]uint16{0x06, 0x1af4, 0x0001, 0x0001} // BUS_VIRTUAL, the vendor of virtio's PCI functions

// answer is what the configuration says to a selection; nil is nothing.
func answer(sel, subsel byte) []byte {
	switch {
	case sel == selectName && subsel == 0:
		return []byte(Name)
	case sel == selectIDs && subsel == 0:
		var b []byte
		for _, v := range ids {
			b = binary.LittleEndian.AppendUint16(b, v)
		}
		return b
	case sel == selectEvent && subsel == evKey:
		b := make([]byte, MaxKey/8+1)
		for key := 1; key <= MaxKey; key++ {
			b[key/8] |= 1 << (key % 8)
		}
		return b
	case sel == selectEvent && subsel == evRep:
		return []byte{0} // that there is one says enough
	}
	return nil
}

// ReadConfig implements virtio.Device.
func (d *Device) ReadConfig(offset int, p []byte) {
	clear(p)
	var b [cfgData + maxData]byte
	d.mu.Lock()
	b[cfgSelect], b[cfgSubsel] = d.sel, d.subsel
	d.mu.Unlock()
	b[cfgSize] = byte(copy(b[cfgData:], answer(b[cfgSelect], b[cfgSubsel])))
	if offset < len(b) {
		copy(p, b[offset:])
	}
}

// WriteConfig implements virtio.Device: the driver selects what it reads.
func (d *Device) WriteConfig(offset int, p []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, v := range p {
		switch offset + i {
		case cfgSelect:
			d.sel = v
		case cfgSubsel:
			d.subsel = v
		}
	}
}
