package storage

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// SparseReader gives data and holes, which are runs of zero bytes by their length.
type SparseReader interface {
	io.Reader
	// ReadHole takes a hole, if that comes next, and returns its length; 0 when data comes next.
	ReadHole() (int64, error)
}

// SparseWriter takes data and holes.
type SparseWriter interface {
	io.Writer
	WriteHole(n int64) error
}

// ReceiveSparse is Receive for data with holes, which become holes of the file.
func (t *Transfer) ReceiveSparse(r SparseReader) error {
	return t.Receive(&punching{r: r, file: t.file, at: int64(t.offset), of: t})
}

// punching reads data and makes the holes between it in the file, to which its reader writes the data.
type punching struct {
	r    SparseReader
	file *os.File
	at   int64 // where the next byte goes
	of   *Transfer
}

// Read implements io.Reader. What it returns is to be written to the file at its position.
func (p *punching) Read(b []byte) (int, error) {
	for {
		hole, err := p.r.ReadHole()
		if err != nil {
			return 0, err
		}
		if hole == 0 {
			break
		}
		if err := p.punch(hole); err != nil {
			return 0, err
		}
	}
	n, err := p.r.Read(b)
	p.at += int64(n)
	return n, err
}

// punch makes length bytes from where we are zero, taking up no space where the file system can do that, and goes on behind.
func (p *punching) punch(length int64) error {
	end := p.at + length
	if end < 0 || p.of.length > 0 && uint64(end) > p.of.offset+p.of.length {
		return failure(virterr.OperationFailed, "a hole of %d bytes does not fit into volume '%s'", length, p.of.v.Name)
	}
	size, device, err := extent(p.file)
	if err != nil {
		return err
	}
	if device && end > size {
		return failure(virterr.OperationFailed, "a hole of %d bytes does not fit into volume '%s'", length, p.of.v.Name)
	}
	if inside := min(end, size); device {
		if err := zeroDevice(context.Background(), p.file, p.at, inside); err != nil {
			return err
		}
	} else if inside > p.at {
		err := unix.Fallocate(int(p.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, p.at, inside-p.at)
		if errors.Is(err, unix.EOPNOTSUPP) {
			err = zero(context.Background(), p.file, p.at, inside)
		}
		if err != nil {
			return err
		}
	}
	if end > size {
		if err := p.file.Truncate(end); err != nil {
			return err
		}
	}
	p.at = end
	_, err = p.file.Seek(end, io.SeekStart)
	return err
}

// SendSparse is Send with the file's holes as holes.
func (t *Transfer) SendSparse(w SparseWriter) error {
	defer t.Close()
	at := int64(t.offset)
	end, _, err := extent(t.file)
	if err != nil {
		return t.explain("read", err)
	}
	if t.length > 0 {
		end = min(end, at+int64(t.length))
	}
	buf := make([]byte, chunk)
	err = extents(t.file, func(from, to int64) error {
		from, to = max(from, at), min(to, end)
		if from >= to {
			return nil
		}
		if from > at {
			if err := w.WriteHole(from - at); err != nil {
				return err
			}
		}
		at = to
		_, err := io.CopyBuffer(onlyWriter{w}, onlyReader{io.NewSectionReader(t.file, from, to-from)}, buf)
		return err
	})
	if err == nil && end > at {
		err = w.WriteHole(end - at)
	}
	if err != nil {
		return t.explain("read", err)
	}
	return nil
}
