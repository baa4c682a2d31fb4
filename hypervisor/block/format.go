package block

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/block/qcow2"
)

// format is what a qcow2 image has over its file.
type format struct {
	q        *qcow2.Image
	opts     Options
	file     *metadata
	backing  *Image // nil for none
	repaired bool
	reported atomic.Bool
}

// metadata is a file as package qcow2 sees it.
type metadata struct{ *Image }

// OpenQcow2 makes an image of format qcow2 of the open file fd. It owns fd and backing from then on, also when it fails.
// backing is the open image that the header's backing file stands for, nil where it names none. An image that was not
// closed is repaired first, which takes time and memory by its size.
func OpenQcow2(fd int, o Options, backing *Image) (*Image, error) {
	file, err := Open(fd, o)
	if err != nil {
		return nil, errors.Join(err, closeBacking(backing))
	}
	f := &format{opts: file.opts, file: &metadata{file}, backing: backing}
	if err := f.open(); err != nil {
		return nil, errors.Join(err, file.Close(), closeBacking(backing))
	}
	return &Image{fd: fd, opts: file.opts, device: file.device, format: f}, nil
}

func closeBacking(img *Image) error {
	if img == nil {
		return nil
	}
	return img.Close()
}

func (f *format) open() error {
	o := qcow2.Options{ReadOnly: f.opts.ReadOnly, Punch: f.opts.Discard}
	if b := f.backing; b != nil && b.format != nil {
		o.Backing = b.format.q
	} else if b != nil {
		o.Backing = qcow2.Raw{F: &metadata{b}, Bytes: b.Size()}
	}
	var err error
	f.q, err = qcow2.Open(f.file, o)
	if errors.Is(err, qcow2.ErrDirty) {
		f.repaired = true
		if err = qcow2.Repair(f.file); err == nil {
			f.q, err = qcow2.Open(f.file, o)
		}
	}
	if err != nil {
		return fmt.Errorf("open qcow2 image: %w", err)
	}
	return nil
}

func (f *format) close() error {
	return errors.Join(f.q.Close(), f.file.Close(), closeBacking(f.backing))
}

// Repaired tells whether the image had to be repaired when it was opened.
func (img *Image) Repaired() bool { return img.format != nil && img.format.repaired }

// place finds where in which file op is, so that it can go the way of a raw image's. It reports false for what went
// another way: it is done, or a thread of the pool does it.
func (l *Loop) place(op *Op) bool {
	f := l.img.format
	switch op.Code {
	case Flush:
		if !f.q.Unsaved() {
			op.file = f.file.Image
			return true
		}
	case Discard:
		if !f.opts.Discard {
			l.finish(op)
			return false
		}
	case Read, Write:
		if op.Code == Write && op.Durable && f.q.Unsaved() {
			break
		}
		op.epoch, op.held = l.reader.Enter(), true
		e, ok := f.q.Map(op.Off, op.Len, op.Code == Write)
		if ok = ok && e.Len == op.Len; ok && e.Kind == qcow2.Data {
			op.file, op.at = e.File.(*metadata).Image, e.Off
			return true
		}
		if ok {
			for i := range op.Iov {
				clear(iovecBytes(&op.Iov[i]))
			}
			l.finish(op)
			return false
		}
		l.reader.Leave(op.epoch)
		op.held = false
	}
	op.slow = true
	l.slow.start(op)
	return false
}

// formatBuffer is how much of a request is copied at a time where its data does not go straight to the file.
const formatBuffer = 256 << 10

// perform does op in the steps that the format needs. buf is the thread's, which it returns for the next op.
func (f *format) perform(op *Op, buf []byte) []byte {
	var err error
	switch op.Code {
	case Read, Write:
		if buf == nil {
			if buf, err = unix.Mmap(-1, 0, formatBuffer, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
				break
			}
		}
		err = f.move(op, buf)
	case Flush:
		err = f.q.Flush()
	case Discard:
		err = f.q.Discard(op.Off, op.Len)
	case WriteZeroes:
		err = f.q.WriteZeroes(op.Off, op.Len, op.Unmap && f.opts.Discard)
	default:
		err = unix.ENOSYS
	}
	if err == nil && op.Durable && (op.Code == Write || op.Code == WriteZeroes) {
		err = f.q.Flush()
	}
	var nonsense *qcow2.CorruptError
	if errors.As(err, &nonsense) && f.opts.Report != nil && !f.reported.Swap(true) {
		f.opts.Report(err)
	}
	op.Err = errnoOf(err)
	return buf
}

// move reads or writes through buf.
func (f *format) move(op *Op, buf []byte) error {
	for op.state < op.Len {
		p := buf[:min(op.Len-op.state, int64(len(buf)))]
		if op.Code == Read {
			if err := f.q.Read(p, op.Off+op.state); err != nil {
				return err
			}
			scatter(op.Iov, p)
		} else {
			gather(p, op.Iov)
			if err := f.q.Write(p, op.Off+op.state); err != nil {
				return err
			}
		}
		op.progress(int64(len(p)))
	}
	return nil
}

// errnoOf is what a request reports for an error of package qcow2, which knows more than errors of the host.
func errnoOf(err error) unix.Errno {
	var errno unix.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &errno) && errno != 0:
		return errno
	}
	return unix.EIO
}

// do runs one operation on the file itself.
func (m *metadata) do(code Code, p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	iov := [1]unix.Iovec{{Base: &p[0]}}
	iov[0].SetLen(len(p))
	op := Op{Code: code, Iov: iov[:], Len: int64(len(p)), file: m.Image, at: off}
	if m.perform(&op); op.Err != 0 {
		return op.Err
	}
	return nil
}

// Read implements qcow2.File.
func (m *metadata) Read(p []byte, off int64) error { return m.do(Read, p, off) }

// Write implements qcow2.File.
func (m *metadata) Write(p []byte, off int64) error { return m.do(Write, p, off) }

// Sync implements qcow2.File.
func (m *metadata) Sync() error {
	if errno := m.flush(); errno != 0 {
		return errno
	}
	return nil
}

// Size implements qcow2.File.
func (m *metadata) Size() (int64, error) {
	if m.device {
		return m.Image.Size(), nil
	}
	return unix.Seek(m.fd, 0, unix.SEEK_END)
}

// Grows implements qcow2.File.
func (m *metadata) Grows() bool { return !m.device }

// Punch implements qcow2.File.
func (m *metadata) Punch(off, n int64) error {
	if m.noPunch.Load() {
		return nil
	}
	errno := m.punch(off, n)
	if unsupported(errno) {
		m.noPunch.Store(true)
		return nil
	}
	if errno != 0 {
		return errno
	}
	return nil
}
