package blk

import (
	"encoding/binary"
	"errors"
	"fmt"

	"virtd/hypervisor/block"
	"virtd/hypervisor/virtio"
)

// Request types (virtio 1.2, 5.2.6).
const (
	typeIn          = 0  // VIRTIO_BLK_T_IN
	typeOut         = 1  // VIRTIO_BLK_T_OUT
	typeFlush       = 4  // VIRTIO_BLK_T_FLUSH
	typeGetID       = 8  // VIRTIO_BLK_T_GET_ID
	typeDiscard     = 11 // VIRTIO_BLK_T_DISCARD
	typeWriteZeroes = 13 // VIRTIO_BLK_T_WRITE_ZEROES
)

// Request status (5.2.6).
const (
	statusOK     = 0 // VIRTIO_BLK_S_OK
	statusIOErr  = 1 // VIRTIO_BLK_S_IOERR
	statusUnsupp = 2 // VIRTIO_BLK_S_UNSUPP
)

const (
	headerSize  = 16 // type, reserved, sector
	segmentSize = 16 // struct virtio_blk_discard_write_zeroes
	flagUnmap   = 1
)

// request is one request from its chain to its status. Requests are reused.
type request struct {
	chain   virtio.Chain
	op      block.Op
	kind    uint32
	status  *byte  // in guest memory
	written uint32 // bytes of the device-writable part, status included
	start   uint64 // ns since Device.started
	header  [headerSize]byte
	segment [segmentSize]byte
	next    *request // free list
}

// errNoStatus stops the device: a driver that leaves no room for header or status cannot be answered.
var errNoStatus = errors.New("request without a header of 16 bytes or a status byte")

// parse copies and checks what r.chain asks for. It returns done with the status to give at once, or fills r.op. What it
// reads from guest memory it reads once.
func (d *Device) parse(r *request, features uint64) (status byte, done bool, err error) {
	c := &r.chain
	if c.WriteLen < 1 || c.CopyIn(r.header[:], 0) < headerSize {
		return 0, false, fmt.Errorf("%w (%d bytes to read, %d to write)", errNoStatus, c.ReadLen, c.WriteLen)
	}
	r.status = virtio.LastByte(c.Write)
	c.Read = virtio.Advance(c.Read, headerSize)
	c.Write = virtio.Truncate(c.Write, c.WriteLen-1)
	r.kind = binary.LittleEndian.Uint32(r.header[0:])
	r.written = 1
	r.op.Unmap, r.op.Iov, r.op.Off, r.op.Len = false, nil, 0, 0
	sector := binary.LittleEndian.Uint64(r.header[8:])
	r.op.Durable = !d.writeback.Load() || features&FeatureFlush == 0
	if d.img.Options().Cache == block.CacheUnsafe {
		r.op.Durable = false
	}
	switch r.kind {
	case typeIn:
		r.op.Code, r.op.Iov = block.Read, c.Write
		return d.transfer(r, sector, c.WriteLen-1)
	case typeOut:
		r.op.Code, r.op.Iov = block.Write, c.Read
		return d.transfer(r, sector, c.ReadLen-headerSize)
	case typeFlush:
		r.op.Code = block.Flush
		return 0, d.img.Options().ReadOnly, nil
	case typeGetID:
		n := c.CopyOut(0, d.serial[:])
		r.written = uint32(n) + 1
		return statusOK, true, nil
	case typeDiscard, typeWriteZeroes:
		return d.ranged(r, features)
	}
	return statusUnsupp, true, nil
}

// inDisk reports whether n sectors from sector exist.
func (d *Device) inDisk(sector, n uint64) bool {
	capacity := d.capacity.Load()
	return sector <= capacity && n <= capacity-sector
}

// transfer checks a read or write of n bytes.
func (d *Device) transfer(r *request, sector, n uint64) (byte, bool, error) {
	blk := uint64(d.cfg.LogicalBlock)
	if n%blk != 0 || sector%(blk/sectorSize) != 0 || !d.inDisk(sector, n/sectorSize) {
		return statusIOErr, true, nil
	}
	if r.kind == typeOut && d.img.Options().ReadOnly {
		return statusIOErr, true, nil
	}
	if r.kind == typeIn {
		r.written = uint32(min(n+1, 1<<32-1))
	}
	r.op.Off, r.op.Len = int64(sector*sectorSize), int64(n)
	return statusOK, n == 0, nil
}

// ranged checks a discard or write-zeroes request, which has one segment (5.2.6.2).
func (d *Device) ranged(r *request, features uint64) (byte, bool, error) {
	need := FeatureDiscard
	if r.kind == typeWriteZeroes {
		need = FeatureWriteZeroes
	}
	if features&need == 0 {
		return statusUnsupp, true, nil
	}
	if d.img.Options().ReadOnly || r.chain.ReadLen-headerSize != segmentSize || r.chain.CopyIn(r.segment[:], 0) != segmentSize {
		return statusIOErr, true, nil
	}
	sector := binary.LittleEndian.Uint64(r.segment[0:])
	n := uint64(binary.LittleEndian.Uint32(r.segment[8:]))
	flags := binary.LittleEndian.Uint32(r.segment[12:])
	if flags&^flagUnmap != 0 || r.kind == typeDiscard && flags != 0 {
		return statusUnsupp, true, nil
	}
	blk := uint64(d.cfg.LogicalBlock / sectorSize)
	if n > maxRangeSectors || sector%blk != 0 || n%blk != 0 || !d.inDisk(sector, n) {
		return statusIOErr, true, nil
	}
	r.op.Off, r.op.Len = int64(sector*sectorSize), int64(n*sectorSize)
	r.op.Unmap = flags&flagUnmap != 0
	if r.op.Code = block.Discard; r.kind == typeWriteZeroes {
		r.op.Code = block.WriteZeroes
	}
	return statusOK, n == 0, nil
}
