package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"os"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/virtio"
)

// errNoLog is returned by StartLog, and by ReadLog when another back end came meanwhile.
var errNoLog = errors.New("its vhost-user back end does not tell what it writes to guest memory (VHOST_F_LOG_ALL, VHOST_USER_PROTOCOL_F_LOG_SHMFD)")

// dirtyLog is shared memory in which back ends note what they write, one bit for each page of 4 KiB from guest address 0 on
// (vhost-user specification, "Migration"). Back ends set bits by atomic operations on bytes.
type dirtyLog struct {
	fd    int
	words []uint64 // the mapping; all access is atomic
	// missed is why the log lacks what a back end wrote.
	missed error
}

// newLog makes a log that has a bit for each page of mem.
func newLog(mem *memory.Memory) (*dirtyLog, error) {
	regions := mem.Regions()
	last := regions[len(regions)-1]
	words := int((last.GPA+last.Size)/memory.PageSize+63) / 64
	fd, err := unix.MemfdCreate("dirty-log", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	if err := unix.Ftruncate(fd, int64(words)*8); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("ftruncate", err)
	}
	b, err := unix.Mmap(fd, 0, words*8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("mmap", err)
	}
	return &dirtyLog{fd: fd, words: wordsOf(b)}, nil
}

func (l *dirtyLog) close() error {
	return errors.Join(unix.Munmap(bytesOf(l.words)), unix.Close(l.fd))
}

// take sets the bits in bitmap of those of the pages from first on that are noted, and forgets them.
func (l *dirtyLog) take(first, pages uint64, bitmap []uint64) {
	end := min(first+pages, uint64(len(l.words))*64)
	for w := first / 64; w*64 < end; w++ {
		mask := ^uint64(0)
		if w*64 < first {
			mask <<= first % 64
		}
		if left := end - w*64; left < 64 {
			mask &= 1<<left - 1
		}
		for noted := takeBits(&l.words[w], mask); noted != 0; noted &= noted - 1 {
			page := w*64 + uint64(bits.TrailingZeros64(noted)) - first
			bitmap[page/64] |= 1 << (page % 64)
		}
	}
}

// logs reports whether a back end notes what it writes where the front end can read it.
func (s *session) logs() bool {
	return s.features&featureLogAll != 0 && s.protocol&protocolLogShmfd != 0
}

// setLog gives the back end the log. It answers with the request, and some with a number.
func (s *session) setLog(l *dirtyLog) error {
	m, err := s.call(setLogBase, 0, append(word(uint64(len(l.words))*8), word(0)...), l.fd)
	if err != nil {
		return err
	}
	m.close()
	return nil
}

// setAddr tells where a ring is, and with log that writes to its used ring are to be noted.
func (s *session) setAddr(mem *memory.Memory, q *virtio.Queue, log bool) error {
	desc, avail, used := q.Rings()
	guest := used
	for _, gpa := range []*uint64{&desc, &avail, &used} {
		b, err := mem.Slice(*gpa, 1)
		if err != nil {
			return fmt.Errorf("ring: %w", err)
		}
		*gpa = address(b)
	}
	a := vringAddr(uint32(q.Index()), desc, used, avail)
	if log {
		binary.LittleEndian.PutUint32(a[4:], vringLogUsed)
		binary.LittleEndian.PutUint64(a[32:], guest)
	}
	return s.set(setVringAddr, a)
}

// relog tells a back end that serves the rings of the presence or absence of the log. The caller holds mu.
func (b *Backend) relog() error {
	r := b.rings
	if r == nil {
		return nil
	}
	on := b.logging(r.session)
	if on {
		if err := r.session.setLog(b.log); err != nil {
			return err
		}
	}
	if err := r.session.set(setFeatures, word(b.ringFeatures(r.session))); err != nil {
		return err
	}
	for _, q := range r.queues {
		if err := r.session.setAddr(b.want.Memory, q, on); err != nil {
			return err
		}
	}
	return nil
}

// logging reports whether a back end of this session is to note what it writes. The caller holds mu.
func (b *Backend) logging(s *session) bool { return b.log != nil && s.logs() }

// StartLog has the back end note which pages of mem it writes, and every other that comes until StopLog. It fails when the back
// end cannot, and does nothing when it does so already.
func (b *Backend) StartLog(mem *memory.Memory) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.log != nil {
		return nil
	}
	if s := b.current.Load(); s != nil && !s.logs() {
		return errNoLog
	}
	var err error
	if b.log, err = newLog(mem); err != nil {
		return fmt.Errorf("make the dirty log of a vhost-user back end: %w", err)
	}
	if err := b.tellLog(); err != nil {
		return errors.Join(fmt.Errorf("start the dirty log of a vhost-user back end: %w", err), b.dropLog())
	}
	return nil
}

// tellLog is relog within the time that a vCPU may have to wait. A back end that does not play along is disconnected. The
// caller holds mu.
func (b *Backend) tellLog() error {
	if b.rings == nil {
		return nil
	}
	s := b.rings.session
	s.patience(b.limits.stop)
	err := b.relog()
	if err != nil {
		s.fail(err)
	}
	return err
}

// ReadLog sets the bits in bitmap of those of the pages from the guest address gpa on that back ends wrote since the last call.
// Bit i%64 of word i/64 is page i. It fails when one that came since StartLog does not note what it writes.
func (b *Backend) ReadLog(gpa, pages uint64, bitmap []uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.log == nil {
		return nil
	}
	b.log.take(gpa/memory.PageSize, pages, bitmap)
	return b.log.missed
}

// StopLog ends it.
func (b *Backend) StopLog() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dropLog()
}

// dropLog is StopLog. The back end has a mapping of its own, so that the log can go whatever it says. The caller holds mu.
func (b *Backend) dropLog() error {
	l := b.log
	if l == nil {
		return nil
	}
	b.log = nil
	err := b.tellLog()
	if err != nil {
		err = fmt.Errorf("stop the dirty log of a vhost-user back end: %w", err)
	}
	return errors.Join(err, l.close())
}
