package block

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// uring is one io_uring instance. The thread that made it is the only one to use it.
type uring struct {
	fd     int
	rings  []byte
	sqeMem []byte

	sqHead, sqTail *uint32
	sqMask         uint32
	sqes           []sqe
	array          []uint32
	cqHead, cqTail *uint32
	cqMask         uint32
	cqes           []cqe

	tail     uint32 // local submission tail
	features uint32

	limit time64 // of an enter that ends by itself, and
	until eventsArg
}

// errNoMultishot tells that the kernel's io_uring is too old for the loop.
var errNoMultishot = errors.New("the host's io_uring lacks multishot poll (Linux 5.13)")

// newUring makes a ring of at least entries submissions that can do nothing but what the loop needs, on the calling
// thread. The newest kernels' cheaper completion modes are used where they exist.
func newUring(entries uint32) (*uring, error) {
	var last error
	for _, flags := range []uint32{setupSingleIssuer | setupDeferTaskrun, setupCoopTaskrun, 0} {
		p := params{flags: flags | setupCQSize | setupDisabled, cqEntries: 4 * entries}
		fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
		if errno == unix.EINVAL {
			last = errno
			continue
		}
		if errno != 0 {
			return nil, fmt.Errorf("set up io_uring: %w", errno)
		}
		u := &uring{fd: int(fd), features: p.features}
		unix.CloseOnExec(u.fd)
		if err := u.init(&p); err != nil {
			u.close()
			return nil, err
		}
		return u, nil
	}
	return nil, fmt.Errorf("set up io_uring: %w", last)
}

func (u *uring) init(p *params) error {
	const need = featSingleMmap | featNoDrop | featExtArg | featRsrcTags
	if p.features&need != need {
		return errNoMultishot
	}
	size := max(uint64(p.sq.array)+4*uint64(p.sqEntries), uint64(p.cq.cqes)+16*uint64(p.cqEntries))
	var err error
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	if u.rings, err = unix.Mmap(u.fd, offRings, int(size), prot, flags); err != nil {
		return fmt.Errorf("map io_uring: %w", err)
	}
	if u.sqeMem, err = unix.Mmap(u.fd, offSQEs, int(p.sqEntries)*int(unsafe.Sizeof(sqe{})), prot, flags); err != nil {
		return fmt.Errorf("map io_uring: %w", err)
	}
	at := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&u.rings[off])) }
	u.sqHead, u.sqTail, u.sqMask = at(p.sq.head), at(p.sq.tail), *at(p.sq.ringMask)
	u.cqHead, u.cqTail, u.cqMask = at(p.cq.head), at(p.cq.tail), *at(p.cq.ringMask)
	u.array = unsafe.Slice(at(p.sq.array), p.sqEntries)
	u.cqes = unsafe.Slice((*cqe)(unsafe.Pointer(&u.rings[p.cq.cqes])), p.cqEntries)
	u.sqes = unsafe.Slice((*sqe)(unsafe.Pointer(&u.sqeMem[0])), p.sqEntries)
	for i := range u.array {
		u.array[i] = uint32(i)
	}
	return u.restrict()
}

// restrict limits the ring to the operations below for good and enables it: whoever takes over the engine can open no
// file and no socket through it.
func (u *uring) restrict() error {
	rules := []restriction{{opcode: restrictionSQEFlagsAllowed, arg: sqeSkipSuccess}}
	if u.features&featCQESkip == 0 {
		rules[0].arg = 0
	}
	for _, op := range []uint8{opReadv, opWritev, opFsync, opPollAdd, opPollRemove, opFallocate, opWrite} {
		rules = append(rules, restriction{opcode: restrictionSQEOp, arg: op})
	}
	if err := u.register(registerRestrictions, unsafe.Pointer(&rules[0]), len(rules)); err != nil {
		return fmt.Errorf("restrict io_uring: %w", err)
	}
	runtime.KeepAlive(rules)
	if err := u.register(registerEnableRings, nil, 0); err != nil {
		return fmt.Errorf("enable io_uring: %w", err)
	}
	return nil
}

func (u *uring) register(op uintptr, arg unsafe.Pointer, n int) error {
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(u.fd), op, uintptr(arg), uintptr(n), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func (u *uring) close() {
	if u.rings != nil {
		unix.Munmap(u.rings)
	}
	if u.sqeMem != nil {
		unix.Munmap(u.sqeMem)
	}
	unix.Close(u.fd)
}

// get returns a cleared submission entry, or nil when the ring is full until the next enter. It becomes the kernel's
// with enter.
func (u *uring) get() *sqe {
	if u.tail-atomic.LoadUint32(u.sqHead) > u.sqMask {
		return nil
	}
	e := &u.sqes[u.tail&u.sqMask]
	*e = sqe{}
	u.tail++
	return e
}

// enter submits what get returned and waits for at least wait completions.
func (u *uring) enter(wait uint32) unix.Errno {
	submit := u.tail - atomic.LoadUint32(u.sqHead)
	atomic.StoreUint32(u.sqTail, u.tail)
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(u.fd), uintptr(submit), uintptr(wait), enterGetEvents, 0, 0)
	return errno
}

// enterFor submits what get returned and waits for a completion, at most that long; ETIME tells that the time was over.
func (u *uring) enterFor(limit time.Duration) unix.Errno {
	submit := u.tail - atomic.LoadUint32(u.sqHead)
	atomic.StoreUint32(u.sqTail, u.tail)
	u.limit = time64{sec: int64(limit / time.Second), nsec: int64(limit % time.Second)}
	u.until.time = uint64(uintptr(unsafe.Pointer(&u.limit)))
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(u.fd), uintptr(submit), 1, enterGetEvents|enterExtArg,
		uintptr(unsafe.Pointer(&u.until)), unsafe.Sizeof(u.until))
	return errno
}

// next takes one completion.
func (u *uring) next() (cqe, bool) {
	head := *u.cqHead // only this thread writes it
	if head == atomic.LoadUint32(u.cqTail) {
		return cqe{}, false
	}
	c := u.cqes[head&u.cqMask]
	atomic.StoreUint32(u.cqHead, head+1)
	return c, true
}

// setIov points e at iovecs, which stay reachable through the Op until it completes. Go's heap does not move.
func (e *sqe) setIov(iov []unix.Iovec) {
	e.addr, e.len = uint64(uintptr(unsafe.Pointer(&iov[0]))), uint32(len(iov))
}

// setBytes points e at memory that is reachable and unchanged until it completes.
func (e *sqe) setBytes(p []byte) {
	e.addr, e.len = uint64(uintptr(unsafe.Pointer(&p[0]))), uint32(len(p))
}

// nameThread names the calling thread, at most 15 bytes.
func nameThread(name string) {
	var b [16]byte
	copy(b[:15], name)
	unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&b[0])), 0, 0, 0)
}
