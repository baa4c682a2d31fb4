package saveimage

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"virtd/domain/wholefile"
)

// New is an image on its way. Exactly one of Commit and Abort is called.
type New struct {
	f    *wholefile.File
	head head
}

// Create begins an image for path.
func Create(path string, h Header) (*New, error) {
	size := max(uint64(2*len(h.XML)), leastSlot)
	n := &New{head: head{running: h.Running, slot: 1, slotSize: (size + slotAlign - 1) / slotAlign * slotAlign}}
	if n.head.slotSize > maxSlot {
		return nil, ErrTooLarge
	}
	f, err := wholefile.Create(path)
	if err != nil {
		return nil, err
	}
	n.f = f
	if err := n.begin(h.XML); err != nil {
		return nil, errors.Join(err, n.Abort())
	}
	return n, nil
}

func (n *New) begin(text string) error {
	if err := n.head.setText(n.f, text); err != nil {
		return err
	}
	if _, err := n.f.WriteAt(n.head.encode(), 0); err != nil {
		return err
	}
	_, err := n.f.Seek(n.head.stateAt(), io.SeekStart)
	return err
}

// State is the file, positioned where the engine writes.
func (n *New) State() *os.File { return n.f.File }

// Commit makes the image durable, then complete, then known by its name. dropCache says that the host need not keep it in
// memory.
func (n *New) Commit(dropCache bool) error {
	if err := n.f.Sync(); err != nil {
		return err
	}
	n.head.complete = true
	if _, err := n.f.WriteAt(n.head.encode(), 0); err != nil {
		return err
	}
	if err := n.f.Commit(); err != nil {
		return err
	}
	if dropCache {
		_ = unix.Fadvise(int(n.f.Fd()), 0, 0, unix.FADV_DONTNEED) // a hint
	}
	return n.f.Close()
}

// Abort removes what was written.
func (n *New) Abort() error { return errors.Join(n.f.Abort(), n.f.Close()) }

// Image is a complete image, open for reading.
type Image struct {
	Header
	f    *os.File
	head *head
}

// Open reads an image's head and document. ErrMagic, ErrIncomplete and ErrDamaged tell what is wrong with it; the state is
// the engine's to check.
func Open(path string) (*Image, error) {
	f, err := openFile(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	img, err := read(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return img, nil
}

// openFile opens what must be a file or a block device, without hanging on anything else.
func openFile(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() && (st.Mode()&os.ModeDevice == 0 || st.Mode()&os.ModeCharDevice != 0) {
		err = fmt.Errorf("'%s': %w", path, wholefile.ErrKind)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func read(f *os.File) (*Image, error) {
	h, err := decode(f)
	if err != nil {
		return nil, err
	}
	text, err := h.text(f)
	if err != nil {
		return nil, err
	}
	var begin [8]byte
	if _, err := f.ReadAt(begin[:], h.stateAt()); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if begin == [8]byte{} { // the engine took it back
		return nil, ErrIncomplete
	}
	if _, err := f.Seek(h.stateAt(), io.SeekStart); err != nil {
		return nil, err
	}
	return &Image{Header{text, h.running}, f, h}, nil
}

// State is the file, positioned where the engine reads. It belongs to the image.
func (i *Image) State() *os.File { return i.f }

// Close closes the file.
func (i *Image) Close() error { return i.f.Close() }

// Rewrite replaces the header of an image, durably. At each instant the old or the new one is there.
func Rewrite(path string, h Header) error {
	f, err := openFile(path, os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	img, err := read(f)
	if err != nil {
		return err
	}
	if err := img.head.setText(f, h.XML); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	img.head.running = h.Running
	if _, err := f.WriteAt(img.head.encode(), 0); err != nil {
		return err
	}
	return f.Sync()
}
