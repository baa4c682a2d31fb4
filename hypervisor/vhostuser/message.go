package vhostuser

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// request is the kind of a message (vhost-user specification, "Front-end message types").
type request uint32

// The requests that this front end makes.
const (
	getFeatures         request = 1
	setFeatures         request = 2
	setOwner            request = 3
	setMemTable         request = 5
	setLogBase          request = 6
	setVringNum         request = 8
	setVringAddr        request = 9
	setVringBase        request = 10
	getVringBase        request = 11
	setVringKick        request = 12
	setVringCall        request = 13
	getProtocolFeatures request = 15
	setProtocolFeatures request = 16
	getQueueNum         request = 17
	setVringEnable      request = 18
	netSetMTU           request = 20
	getConfig           request = 24
	setConfig           request = 25
	getInflightFD       request = 31
	setInflightFD       request = 32
)

var requestNames = map[request]string{
	getFeatures: "GET_FEATURES", setFeatures: "SET_FEATURES", setOwner: "SET_OWNER", setMemTable: "SET_MEM_TABLE",
	setLogBase: "SET_LOG_BASE", setVringNum: "SET_VRING_NUM", setVringAddr: "SET_VRING_ADDR", setVringBase: "SET_VRING_BASE", getVringBase: "GET_VRING_BASE",
	setVringKick: "SET_VRING_KICK", setVringCall: "SET_VRING_CALL", getProtocolFeatures: "GET_PROTOCOL_FEATURES",
	setProtocolFeatures: "SET_PROTOCOL_FEATURES", getQueueNum: "GET_QUEUE_NUM", setVringEnable: "SET_VRING_ENABLE",
	netSetMTU: "NET_SET_MTU", getConfig: "GET_CONFIG", setConfig: "SET_CONFIG", getInflightFD: "GET_INFLIGHT_FD",
	setInflightFD: "SET_INFLIGHT_FD",
}

// String names a request as the specification does, without its prefix.
func (r request) String() string {
	if name, ok := requestNames[r]; ok {
		return name
	}
	return fmt.Sprintf("request %d", uint32(r))
}

// Flags of a header.
const (
	flagVersion     = 1 // bits 0 and 1: the version of the protocol
	flagVersionMask = 3
	flagReply       = 1 << 2
	flagNeedReply   = 1 << 3
)

// Limits of a message. Replies that this front end can ask for are at most a configuration space with its header; what it
// sends is at most a memory table of 8 regions.
const (
	headerSize = 12
	maxPayload = 512
	maxFDs     = 8 // VHOST_MEMORY_BASELINE_NREGIONS
)

// message is one message of either direction. Who holds a message owns its descriptors.
type message struct {
	request request
	flags   uint32
	payload []byte
	fds     []int
}

func (m *message) close() {
	for _, fd := range m.fds {
		unix.Close(fd)
	}
	m.fds = nil
}

// encode returns the bytes of a message.
func (m *message) encode() []byte {
	b := make([]byte, 0, headerSize+len(m.payload))
	b = binary.LittleEndian.AppendUint32(b, uint32(m.request))
	b = binary.LittleEndian.AppendUint32(b, m.flags)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(m.payload)))
	return append(b, m.payload...)
}

// receiver is recvmsg(2) on a stream socket: bytes into p and control messages into oob.
type receiver interface {
	receive(p, oob []byte) (n, oobn, flags int, err error)
}

// readMessage reads one message. Its descriptors are the caller's; with an error there are none.
func readMessage(r receiver) (m message, err error) {
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	var header [headerSize]byte
	if err = m.fill(r, header[:]); err != nil {
		return m, err
	}
	m.request = request(binary.LittleEndian.Uint32(header[0:]))
	m.flags = binary.LittleEndian.Uint32(header[4:])
	size := binary.LittleEndian.Uint32(header[8:])
	switch {
	case m.flags&flagVersionMask != flagVersion:
		return m, fmt.Errorf("a message with flags %#x is not of version 1: %w", m.flags, ErrProtocol)
	case size > maxPayload:
		return m, fmt.Errorf("a message (%v) of %d bytes: %w", m.request, size, ErrProtocol)
	}
	m.payload = make([]byte, size)
	return m, m.fill(r, m.payload)
}

// fill reads all of p and keeps the descriptors that come along.
func (m *message) fill(r receiver, p []byte) error {
	oob := make([]byte, unix.CmsgSpace(4*maxFDs))
	for len(p) > 0 {
		n, oobn, flags, err := r.receive(p, oob)
		if oobn > 0 {
			if err := m.addFDs(oob[:oobn]); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		if n <= 0 || n > len(p) {
			return errEnded
		}
		if flags&unix.MSG_CTRUNC != 0 || len(m.fds) > maxFDs {
			return fmt.Errorf("more than %d descriptors with one message: %w", maxFDs, ErrProtocol)
		}
		p = p[n:]
	}
	return nil
}

func (m *message) addFDs(oob []byte) error {
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("a control message that makes no sense: %w: %w", err, ErrProtocol)
	}
	for i := range list {
		fds, err := unix.ParseUnixRights(&list[i])
		if err != nil {
			continue // credentials and the like carry nothing to close
		}
		m.fds = append(m.fds, fds...)
	}
	return nil
}

// word is a payload of one 64-bit number.
func word(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

// vringState is the payload struct vhost_vring_state.
func vringState(index, num uint32) []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, index), num)
}

// vringAddr is the payload struct vhost_vring_addr. The addresses are of this process, as those of the memory table.
func vringAddr(index uint32, desc, used, avail uint64) []byte {
	b := vringState(index, 0)
	for _, v := range []uint64{desc, used, avail, 0} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// vringLogUsed among the flags of a payload of SET_VRING_ADDR has writes to the used ring noted, at its last number
// (VHOST_VRING_F_LOG).
const vringLogUsed = 1

// noFD in a payload of SET_VRING_KICK or SET_VRING_CALL says that no descriptor comes along.
const noFD = 1 << 8

// memoryRegion is one region of a memory table.
type memoryRegion struct{ guest, size, user, offset uint64 }

// memoryTable is the payload of SET_MEM_TABLE.
func memoryTable(regions []memoryRegion) []byte {
	b := vringState(uint32(len(regions)), 0)
	for _, r := range regions {
		for _, v := range []uint64{r.guest, r.size, r.user, r.offset} {
			b = binary.LittleEndian.AppendUint64(b, v)
		}
	}
	return b
}

// configHeader is the size of the header of a configuration space payload.
const configHeader = 12

// configSpace is the payload of GET_CONFIG and SET_CONFIG.
func configSpace(offset int, data []byte) []byte {
	b := vringState(uint32(offset), uint32(len(data)))
	return append(append(b, 0, 0, 0, 0), data...) // flags: VHOST_SET_CONFIG_TYPE_FRONTEND
}

// inflight describes the buffer in which a back end notes what it works on.
type inflight struct {
	size, offset uint64
	queues       uint16
	entries      uint16
	fd           int
}

const inflightSize = 20

func (i *inflight) payload() []byte {
	b := binary.LittleEndian.AppendUint64(word(i.size), i.offset)
	b = binary.LittleEndian.AppendUint16(b, i.queues)
	return binary.LittleEndian.AppendUint16(b, i.entries)
}
