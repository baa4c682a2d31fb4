package storage

import (
	"errors"
	"io"
	"os"

	"virtd/virterr"
)

// Transfer is an upload or a download that is about to run. Run or Close must be called.
type Transfer struct {
	v       Volume
	file    *os.File
	release func()
	offset  uint64
	length  uint64 // 0: up to the end
}

// Upload prepares to write what comes from a client at an offset; with a length, not more than that.
func (v Volume) Upload(offset, length uint64) (*Transfer, error) {
	return v.transfer(os.O_RDWR, v.claim, offset, length)
}

// Download prepares to send the volume's bytes to a client, from an offset; with a length, not more than that.
func (v Volume) Download(offset, length uint64) (*Transfer, error) {
	return v.transfer(os.O_RDONLY, v.hold, offset, length)
}

func (v Volume) transfer(flags int, take func() (func(), error), offset, length uint64) (*Transfer, error) {
	if offset > 1<<62 || length > 1<<62 {
		return nil, failure(virterr.InvalidArg, "offset %d or length %d is larger than any file can be", offset, length)
	}
	release, err := take()
	if err != nil {
		return nil, err
	}
	if !v.exists() {
		release()
		return nil, noVolume(v.Name)
	}
	f, err := openData(v.node(), flags)
	if err != nil {
		release()
		return nil, failure(virterr.SystemError, "cannot open '%s': %w", v.Path, virterr.Strerror(err))
	}
	if _, err := f.Seek(int64(offset), io.SeekStart); err != nil {
		f.Close()
		release()
		return nil, failure(virterr.SystemError, "cannot seek to %d in '%s': %w", offset, v.Path, virterr.Strerror(err))
	}
	return &Transfer{v: v, file: f, release: release, offset: offset, length: length}, nil
}

// Close gives up.
func (t *Transfer) Close() {
	t.file.Close()
	t.release()
}

// Receive writes what r gives, up to its end. What was written is on disk when it returns without error.
func (t *Transfer) Receive(r io.Reader) error {
	defer t.Close()
	if t.length > 0 {
		r = &limited{r: r, left: t.length, of: t}
	}
	// Only the reader's and the file's own errors come back.
	if _, err := io.CopyBuffer(onlyWriter{t.file}, r, make([]byte, chunk)); err != nil {
		return t.explain("write", err)
	}
	if err := t.file.Sync(); err != nil {
		return t.explain("sync data to", err)
	}
	if t.offset == 0 && !t.v.block() {
		noteUpload(t.file, t.v.Path)
	}
	p := t.v.pool
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	p.refreshed()
	return nil
}

// Send writes the volume's bytes to w.
func (t *Transfer) Send(w io.Writer) error {
	defer t.Close()
	var r io.Reader = t.file
	if t.length > 0 {
		r = io.LimitReader(r, int64(t.length))
	}
	if _, err := io.CopyBuffer(w, onlyReader{r}, make([]byte, chunk)); err != nil {
		return t.explain("read", err)
	}
	return nil
}

func (t *Transfer) explain(what string, err error) error {
	var e *virterr.Error
	if errors.As(err, &e) {
		return e
	}
	return failure(virterr.SystemError, "cannot %s file '%s': %w", what, t.v.Path, virterr.Strerror(err))
}

// limited fails when more comes than was announced: the client and we disagree about what the volume holds.
type limited struct {
	r    io.Reader
	left uint64
	of   *Transfer
}

// Read implements io.Reader.
func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if uint64(n) > l.left {
		return 0, failure(virterr.OperationFailed, "more data than the %d bytes that were announced for volume '%s'", l.of.length, l.of.v.Name)
	}
	l.left -= uint64(n)
	return n, err
}

// These hide methods by which io.Copy would take another way than through the buffer.
type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)
