package virtio

import "encoding/binary"

// Offsets in struct virtio_pci_common_cfg (virtio 1.2, 4.1.4.3).
const (
	regDeviceFeatureSelect = 0x00
	regDeviceFeature       = 0x04
	regDriverFeatureSelect = 0x08
	regDriverFeature       = 0x0c
	regConfigVector        = 0x10
	regNumQueues           = 0x12
	regStatus              = 0x14
	regGeneration          = 0x15
	regQueueSelect         = 0x16
	regQueueSize           = 0x18
	regQueueVector         = 0x1a
	regQueueEnable         = 0x1c
	regQueueNotifyOff      = 0x1e
	regQueueDesc           = 0x20
	regQueueDriver         = 0x28
	regQueueDevice         = 0x30
)

// readCommon fills the image of the structure as the driver would read it now. Building all of it serves accesses of any
// width and place; this is no hot path. The caller holds mu.
func (t *PCI) readCommon(b *[commonSize]byte) {
	le := binary.LittleEndian
	le.PutUint32(b[regDeviceFeatureSelect:], t.devSelect)
	le.PutUint32(b[regDeviceFeature:], half(t.features, t.devSelect))
	le.PutUint32(b[regDriverFeatureSelect:], t.drvSelect)
	le.PutUint32(b[regDriverFeature:], half(t.accepted, t.drvSelect))
	le.PutUint16(b[regConfigVector:], t.config.get())
	le.PutUint16(b[regNumQueues:], uint16(len(t.queues)))
	b[regStatus] = t.statusByte()
	b[regGeneration] = byte(t.generation.Load())
	le.PutUint16(b[regQueueSelect:], t.queueSel)
	q := t.selected()
	if q == nil {
		le.PutUint16(b[regQueueVector:], noVector) // size 0: there is no such queue
		return
	}
	le.PutUint16(b[regQueueSize:], q.size)
	le.PutUint16(b[regQueueVector:], q.vector.get())
	if q.enabled {
		le.PutUint16(b[regQueueEnable:], 1)
	}
	le.PutUint16(b[regQueueNotifyOff:], t.queueSel)
	le.PutUint64(b[regQueueDesc:], q.desc)
	le.PutUint64(b[regQueueDriver:], q.driver)
	le.PutUint64(b[regQueueDevice:], q.used)
}

// half selects bits 0 to 31 or 32 to 63 of features; the others are zero.
func half(features uint64, sel uint32) uint32 {
	if sel > 1 {
		return 0
	}
	return uint32(features >> (32 * sel))
}

// selected returns the queue that queue_select names, or nil.
func (t *PCI) selected() *queueRegs {
	if int(t.queueSel) >= len(t.queues) {
		return nil
	}
	return &t.queues[t.queueSel]
}

// writeCommon stores one field. A driver writes fields by their width, 64-bit ones also by halves (4.1.3.1); anything
// else is ignored. The caller holds mu.
func (t *PCI) writeCommon(offset int, p []byte) {
	switch len(p) {
	case 1:
		if offset == regStatus {
			t.writeStatus(p[0])
		}
	case 2:
		t.writeCommon16(offset, binary.LittleEndian.Uint16(p))
	case 4:
		t.writeCommon32(offset, binary.LittleEndian.Uint32(p))
	case 8:
		if offset >= regQueueDesc && offset <= regQueueDevice && offset%8 == 0 {
			t.writeCommon32(offset, binary.LittleEndian.Uint32(p))
			t.writeCommon32(offset+4, binary.LittleEndian.Uint32(p[4:]))
		}
	}
}

func (t *PCI) writeCommon16(offset int, v uint16) {
	switch offset {
	case regConfigVector:
		t.config.set(v)
	case regQueueSelect:
		t.queueSel = v
	case regQueueVector:
		// Kernel back ends hold the interrupt of the vector that was set when the device started.
		if q := t.selected(); q != nil && t.status&StatusDriverOK == 0 {
			q.vector.set(v)
		}
	case regQueueSize:
		if q := t.configurable(); q != nil && v <= q.max && validSize(v, t.accepted&FeatureRingPacked != 0) {
			q.size = v
		}
	case regQueueEnable:
		if q := t.configurable(); q != nil && v == 1 {
			q.enabled = true
		}
	}
}

func (t *PCI) writeCommon32(offset int, v uint32) {
	switch offset {
	case regDeviceFeatureSelect:
		t.devSelect = v
	case regDriverFeatureSelect:
		t.drvSelect = v
	case regDriverFeature:
		t.writeFeatures(v)
	case regQueueDesc, regQueueDesc + 4:
		if q := t.configurable(); q != nil {
			setHalf(&q.desc, offset, v)
		}
	case regQueueDriver, regQueueDriver + 4:
		if q := t.configurable(); q != nil {
			setHalf(&q.driver, offset, v)
		}
	case regQueueDevice, regQueueDevice + 4:
		if q := t.configurable(); q != nil {
			setHalf(&q.used, offset, v)
		}
	}
}

func setHalf(dst *uint64, offset int, v uint32) {
	if offset%8 == 0 {
		*dst = *dst&^0xffffffff | uint64(v)
	} else {
		*dst = *dst&0xffffffff | uint64(v)<<32
	}
}

// configurable returns the selected queue while the driver may set it up: features agreed, device not running, queue not
// enabled. What is written at any other time is ignored, so that a running device never sees a queue change.
func (t *PCI) configurable() *queueRegs {
	q := t.selected()
	if q == nil || q.enabled || t.status&(StatusFeaturesOK|StatusDriverOK) != StatusFeaturesOK {
		return nil
	}
	return q
}

// writeFeatures stores what the driver accepts, between DRIVER and FEATURES_OK (3.1.1).
func (t *PCI) writeFeatures(v uint32) {
	if t.status&(StatusDriver|StatusFeaturesOK) != StatusDriver || t.drvSelect > 1 {
		return
	}
	shift := 32 * t.drvSelect
	t.accepted = t.accepted&^(0xffffffff<<shift) | uint64(v)<<shift
}
