package virtiotest

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/virtio"
)

// Descriptor flags (virtio 1.2, 2.7.5).
const (
	Next     = 1
	Write    = 2
	Indirect = 4
)

// Buf is one buffer of a chain.
type Buf struct {
	GPA   uint64
	Len   uint32
	Write bool // the device may write it
}

// Used is one element of the used ring.
type Used struct {
	ID, Len uint32
}

// NewMemory returns size bytes of RAM from guest address 0, released with the test.
func NewMemory(t testing.TB, size uint64) *memory.Memory {
	t.Helper()
	m, err := memory.New(memory.Backing{Kind: memory.Anonymous}, memory.Range{GPA: 0, Size: size})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// Ring is the driver's end of a virtqueue of Size entries in Mem: a packed one where Features say so, of which Desc is the
// descriptor ring, Avail the driver's and Used the device's event suppression structure. Its methods panic where the ring is
// not in RAM; a test that wants hostile contents writes them with the raw methods or to memory directly.
type Ring struct {
	Mem               *memory.Memory
	Size              uint16
	Desc, Avail, Used uint64
	Features          uint64
	Index             int

	kick, call int
	free       []uint16            // descriptors not in use
	chains     map[uint16][]uint16 // descriptors of each chain by its head
	avail      uint16              // driver's index
	seen       uint16              // used elements collected
	packed     packedRing          // in place of these with a packed ring
}

// Bytes returns how much memory a ring of size entries takes.
func Bytes(size uint16) uint64 { return (uint64(size)*(16+2+8) + 64 + 4095) &^ 4095 }

// NewRing lays a ring out at base, a multiple of 16, with all descriptors free. Its eventfds are closed with the test.
func NewRing(t testing.TB, mem *memory.Memory, base uint64, size uint16) *Ring {
	t.Helper()
	r := RawRing(mem, base, size)
	r.kick, r.call = eventfd(t), eventfd(t)
	return r
}

// RawRing is NewRing with cleared indexes and without eventfds, for use through a transport.
func RawRing(mem *memory.Memory, base uint64, size uint16) *Ring {
	n := uint64(size)
	r := &Ring{Mem: mem, Size: size, Desc: base, Avail: base + 16*n, kick: -1, call: -1, chains: map[uint16][]uint16{}, packed: newPackedRing(size)}
	r.Used = (r.Avail + 4 + 2*n + 2 + 3) &^ 3
	for i := range size {
		r.free = append(r.free, size-1-i)
	}
	if err := mem.WriteAt(make([]byte, 16*n), r.Desc); err != nil {
		panic(err)
	}
	for _, gpa := range []uint64{r.Avail, r.Used} {
		r.put16(gpa, 0)
		r.put16(gpa+2, 0)
	}
	return r
}

func eventfd(t testing.TB) int {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// signal counts interrupts in the ring's call eventfd, as KVM would take them.
type signal struct{ fd int }

var one = []byte{1, 0, 0, 0, 0, 0, 0, 0}

func (s signal) Signal() { unix.Write(s.fd, one) }

// FD is what the device may signal in place of Signal.
func (s signal) FD() int { return s.fd }

// Config is how the transport would describe the ring to the device.
func (r *Ring) Config() virtio.QueueConfig {
	return virtio.QueueConfig{
		Index: r.Index, Size: r.Size, Desc: r.Desc, Avail: r.Avail, Used: r.Used, Features: r.Features,
		KickFD: r.kick, CallFD: r.call, Interrupt: signal{r.call},
	}
}

// Queue makes the device's end.
func (r *Ring) Queue(t testing.TB) *virtio.Queue {
	t.Helper()
	q, err := virtio.NewQueue(r.Mem, r.Config())
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func (r *Ring) put16(gpa uint64, v uint16) {
	var b [2]byte
	binary.LittleEndian.PutUint16(b[:], v)
	if err := r.Mem.WriteAt(b[:], gpa); err != nil {
		panic(err)
	}
}

func (r *Ring) get16(gpa uint64) uint16 {
	var b [2]byte
	if err := r.Mem.ReadAt(b[:], gpa); err != nil {
		panic(err)
	}
	return binary.LittleEndian.Uint16(b[:])
}

// PutDesc writes a descriptor at gpa: into the table (r.Desc+16*i) or an indirect one.
func (r *Ring) PutDesc(gpa, addr uint64, n uint32, flags, next uint16) {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[0:], addr)
	binary.LittleEndian.PutUint32(b[8:], n)
	binary.LittleEndian.PutUint16(b[12:], flags)
	binary.LittleEndian.PutUint16(b[14:], next)
	if err := r.Mem.WriteAt(b[:], gpa); err != nil {
		panic(err)
	}
}

// SetDesc writes descriptor i of the table as it stands, whether it makes sense or not.
func (r *Ring) SetDesc(i uint16, addr uint64, n uint32, flags, next uint16) {
	r.PutDesc(r.Desc+16*uint64(i), addr, n, flags, next)
}

// Offer puts head into the available ring, whatever it is, and publishes it.
func (r *Ring) Offer(head uint16) {
	r.put16(r.Avail+4+2*uint64(r.avail%r.Size), head)
	r.avail++
	r.SetAvailIdx(r.avail)
}

// SetAvailIdx publishes any index.
func (r *Ring) SetAvailIdx(idx uint16) {
	r.avail = idx
	w, err := r.Mem.LoadUint32(r.Avail &^ 3)
	if err != nil {
		panic(err)
	}
	if r.Avail%4 != 0 {
		r.put16(r.Avail+2, idx)
		return
	}
	if err := r.Mem.StoreUint32(r.Avail, w&0xffff|uint32(idx)<<16); err != nil {
		panic(err)
	}
}

// SetNoInterrupt sets VIRTQ_AVAIL_F_NO_INTERRUPT, or RING_EVENT_FLAGS_DISABLE.
func (r *Ring) SetNoInterrupt(on bool) {
	v := uint16(0)
	if on {
		v = 1
	}
	if r.Packed() {
		r.SetDriverEvent(0, v)
		return
	}
	r.put16(r.Avail, v)
}

// SetUsedEvent asks for an interrupt when the used index passes v.
func (r *Ring) SetUsedEvent(v uint16) { r.put16(r.Avail+4+2*uint64(r.Size), v) }

// Add makes one chain of bufs available and returns its head, with a packed ring the identifier of its buffer. It panics when
// the ring is full.
func (r *Ring) Add(bufs ...Buf) uint16 {
	if r.Packed() {
		return r.addPackedBufs(bufs)
	}
	n := len(bufs)
	if n > len(r.free) {
		panic("virtiotest: ring is full")
	}
	ids := append([]uint16(nil), r.free[len(r.free)-n:]...)
	r.free = r.free[:len(r.free)-n]
	for i, b := range bufs {
		flags, next := uint16(0), uint16(0)
		if b.Write {
			flags |= Write
		}
		if i+1 < n {
			flags, next = flags|Next, ids[i+1]
		}
		r.SetDesc(ids[i], b.GPA, b.Len, flags, next)
	}
	r.chains[ids[0]] = ids
	r.Offer(ids[0])
	return ids[0]
}

// AddIndirect makes one chain available through an indirect table at gpa, which takes 16 bytes for each buffer.
func (r *Ring) AddIndirect(gpa uint64, bufs ...Buf) uint16 {
	if r.Packed() {
		return r.addPackedIndirect(gpa, bufs)
	}
	for i, b := range bufs {
		flags := uint16(0)
		if b.Write {
			flags |= Write
		}
		if i+1 < len(bufs) {
			flags |= Next
		}
		r.PutDesc(gpa+16*uint64(i), b.GPA, b.Len, flags, uint16(i+1))
	}
	id := r.free[len(r.free)-1]
	r.free = r.free[:len(r.free)-1]
	r.SetDesc(id, gpa, uint32(16*len(bufs)), Indirect, 0)
	r.chains[id] = []uint16{id}
	r.Offer(id)
	return id
}

// Kick rings the doorbell.
func (r *Ring) Kick() { signal{r.kick}.Signal() }

// WantsKick reports whether the device wants to be kicked for the chain added last.
func (r *Ring) WantsKick() bool {
	if r.Packed() {
		return r.wantsPackedKick()
	}
	if r.Features&virtio.FeatureEventIdx != 0 {
		return r.get16(r.Used+4+8*uint64(r.Size)) == r.avail-1
	}
	return r.get16(r.Used)&1 == 0
}

// UsedIdx returns the device's index.
func (r *Ring) UsedIdx() uint16 {
	w, err := r.Mem.LoadUint32(r.Used)
	if err != nil {
		panic(err)
	}
	return uint16(w >> 16)
}

// Collect returns the next used element, and frees the descriptors of its chain; false when there is none.
func (r *Ring) Collect() (Used, bool) {
	if r.Packed() {
		return r.collectPacked()
	}
	if r.UsedIdx() == r.seen {
		return Used{}, false
	}
	var b [8]byte
	if err := r.Mem.ReadAt(b[:], r.Used+4+8*uint64(r.seen%r.Size)); err != nil {
		panic(err)
	}
	r.seen++
	u := Used{binary.LittleEndian.Uint32(b[0:]), binary.LittleEndian.Uint32(b[4:])}
	r.free = append(r.free, r.chains[uint16(u.ID)]...)
	delete(r.chains, uint16(u.ID))
	return u, true
}

// Seen is the used index up to which Collect came.
func (r *Ring) Seen() uint16 { return r.seen }

// Offered is the available index.
func (r *Ring) Offered() uint16 { return r.avail }

// WaitInterrupt waits for the device's interrupt and takes it.
func (r *Ring) WaitInterrupt(t testing.TB) {
	for {
		fds := []unix.PollFd{{Fd: int32(r.call), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 10000); err == unix.EINTR {
			continue
		} else if n == 0 {
			t.Fatal("no interrupt within 10 s")
		}
		r.Interrupts()
		return
	}
}

// Interrupts returns how many interrupts came since the last call.
func (r *Ring) Interrupts() int { return takeEventfd(r.call) }

func takeEventfd(fd int) int {
	var b [8]byte
	if n, err := unix.Read(fd, b[:]); err != nil || n != 8 {
		return 0
	}
	return int(binary.LittleEndian.Uint64(b[:]))
}

// WaitUsed waits until a used element is there and collects it. The test fails if the interrupt does not come within
// ten seconds of the device's clock.
func (r *Ring) WaitUsed(t testing.TB) Used {
	t.Helper()
	for {
		if u, ok := r.Collect(); ok {
			return u
		}
		if r.Features&virtio.FeatureEventIdx != 0 { // ask for the next one, and look again before sleeping (2.7.7.1)
			r.wantInterrupt()
			if u, ok := r.Collect(); ok {
				return u
			}
		}
		fds := []unix.PollFd{{Fd: int32(r.call), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 10000)
		if err == unix.EINTR {
			continue
		}
		r.Interrupts()
		if n == 0 {
			if u, ok := r.Collect(); ok {
				t.Error("device used a buffer without an interrupt")
				return u
			}
			t.Fatal("device did not use the buffer within 10 s")
		}
	}
}
