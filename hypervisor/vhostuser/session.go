package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/virtio"
)

// session is a connection on which features were negotiated.
type session struct {
	*conn
	features uint64 // the back end's
	protocol uint64 // protocol features in force
	queues   int    // that the back end can have, in units of the device type: pairs for a network device
	config   []byte // configuration space, where the device has it from the back end
}

// negotiate learns what the back end can do. The connection is over when it fails.
func negotiate(c *conn, want Config) (*session, error) {
	s := &session{conn: c, queues: 1}
	if err := s.negotiate(want); err != nil {
		c.fail(err)
		return nil, err
	}
	return s, nil
}

func (s *session) negotiate(want Config) (err error) {
	if s.features, err = s.askWord(getFeatures); err != nil {
		return err
	}
	if s.features&virtio.FeatureVersion1 == 0 {
		return fmt.Errorf("the back end knows no virtio 1 (features %#x)", s.features)
	}
	if s.features&featureProtocol != 0 {
		if err := s.negotiateProtocol(want); err != nil {
			return err
		}
	}
	if want.ConfigSize > 0 && s.protocol&protocolConfig == 0 {
		return errors.New("the back end does not tell the device's configuration (VHOST_USER_PROTOCOL_F_CONFIG)")
	}
	if want.Queues > s.queues {
		return fmt.Errorf("the device has %d queues and the back end serves %d", want.Queues, s.queues)
	}
	if err := s.set(setOwner, nil); err != nil {
		return err
	}
	if want.ConfigSize > 0 {
		s.config, err = s.readConfig(want.ConfigSize)
	}
	return err
}

func (s *session) negotiateProtocol(want Config) error {
	has, err := s.askWord(getProtocolFeatures)
	if err != nil {
		return err
	}
	use := protocolMQ | protocolReplyAck | protocolLogShmfd
	if want.ConfigSize > 0 {
		use |= protocolConfig
	}
	if want.Ordered {
		use |= protocolMTU
	} else {
		use |= protocolInflight
	}
	use &= has
	if err := s.send(setProtocolFeatures, 0, word(use)); err != nil {
		return err
	}
	s.protocol = use
	if use&protocolMQ == 0 {
		return nil
	}
	n, err := s.askWord(getQueueNum)
	if err != nil {
		return err
	}
	if n == 0 || n > 1<<16 {
		return s.broken(getQueueNum, fmt.Errorf("%d queues: %w", n, ErrProtocol))
	}
	s.queues = int(n)
	return nil
}

// readConfig reads size bytes of the configuration space.
func (s *session) readConfig(size int) ([]byte, error) {
	b, err := s.ask(getConfig, 0, configSpace(0, make([]byte, size)), configHeader+size)
	if err != nil {
		return nil, err
	}
	if got := binary.LittleEndian.Uint32(b[4:]); got != uint32(size) {
		return nil, s.broken(getConfig, fmt.Errorf("%d bytes of %d: %w", got, size, ErrProtocol))
	}
	return b[configHeader:], nil
}

// set sends a message whose success the back end confirms, if it can.
func (s *session) set(r request, payload []byte, fds ...int) error {
	if s.protocol&protocolReplyAck == 0 {
		return s.send(r, 0, payload, fds...)
	}
	b, err := s.ask(r, flagNeedReply, payload, 8, fds...)
	if err != nil {
		return err
	}
	if v := binary.LittleEndian.Uint64(b); v != 0 {
		return s.broken(r, fmt.Errorf("%w it with %d", errRefused, v))
	}
	return nil
}

// setMemory tells where guest RAM is.
func (s *session) setMemory(mem *memory.Memory) error {
	table, fds, err := tableOf(mem)
	if err != nil {
		return err
	}
	return s.set(setMemTable, memoryTable(table), fds...)
}

// CheckMemory reports whether back ends can map mem. The error is ErrPrivate (wrapped) when it is private.
func CheckMemory(mem *memory.Memory) error {
	_, _, err := tableOf(mem)
	return err
}

func tableOf(mem *memory.Memory) (table []memoryRegion, fds []int, err error) {
	regions := mem.Regions()
	if len(regions) > maxFDs {
		return nil, nil, fmt.Errorf("%d regions of RAM, the protocol has %d", len(regions), maxFDs)
	}
	for i := range regions {
		r := &regions[i]
		if r.File < 0 {
			return nil, nil, ErrPrivate
		}
		table = append(table, memoryRegion{guest: r.GPA, size: r.Size, user: address(r.Host), offset: uint64(r.Off)})
		fds = append(fds, r.File)
	}
	return table, fds, nil
}

// startQueue describes one ring and starts it with its doorbell; with log, writes to its used ring are noted.
func (s *session) startQueue(mem *memory.Memory, q *virtio.Queue, kick int, log bool) error {
	i := uint32(q.Index())
	if err := s.set(setVringNum, vringState(i, uint32(q.Size()))); err != nil {
		return err
	}
	if err := s.set(setVringBase, vringState(i, q.Base())); err != nil {
		return err
	}
	if err := s.setAddr(mem, q, log); err != nil {
		return err
	}
	if err := s.setFD(setVringCall, i, q.CallFD()); err != nil {
		return err
	}
	return s.setFD(setVringKick, i, kick)
}

// setFD gives the back end an eventfd of a ring; -1 is none.
func (s *session) setFD(r request, index uint32, fd int) error {
	if fd < 0 {
		return s.set(r, word(uint64(index)|noFD))
	}
	return s.set(r, word(uint64(index)), fd)
}

// stopQueue stops a ring and returns where the back end stood, as Queue.Base has it. Of a packed ring, back ends that give
// everything back before they answer tell one position of the two only, in the lower half.
func (s *session) stopQueue(q *virtio.Queue) (base uint32, err error) {
	b, err := s.ask(getVringBase, 0, vringState(uint32(q.Index()), 0), 8)
	if err != nil {
		return 0, err
	}
	if i := binary.LittleEndian.Uint32(b); i != uint32(q.Index()) {
		return 0, s.broken(getVringBase, fmt.Errorf("ring %d in place of %d: %w", i, q.Index(), ErrProtocol))
	}
	base = binary.LittleEndian.Uint32(b[4:])
	if q.Features()&virtio.FeatureRingPacked == 0 {
		return base & 0xffff, nil
	}
	if base>>16 == 0 {
		base |= base << 16
	}
	return base, nil
}

// newInflight has the back end make the buffer in which it notes what it works on.
func (s *session) newInflight(queues, entries uint16) (*inflight, error) {
	want := inflight{queues: queues, entries: entries}
	m, err := s.call(getInflightFD, 0, want.payload())
	if err != nil {
		return nil, err
	}
	if len(m.payload) != inflightSize || len(m.fds) != 1 {
		n := len(m.fds)
		m.close()
		return nil, s.broken(getInflightFD, fmt.Errorf("a reply of %d bytes with %d descriptors: %w", len(m.payload), n, ErrProtocol))
	}
	unix.CloseOnExec(m.fds[0])
	le := binary.LittleEndian
	return &inflight{size: le.Uint64(m.payload), offset: le.Uint64(m.payload[8:]), queues: queues, entries: entries, fd: m.fds[0]}, nil
}
