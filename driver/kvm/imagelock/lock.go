package imagelock

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Permissions of a user of an image: bit i of a set is byte i of a range. Numbers are QEMU's BLK_PERM_*
// (include/block/block-common.h).
const (
	permRead           = 0 // BLK_PERM_CONSISTENT_READ
	permWrite          = 1 // BLK_PERM_WRITE
	permWriteUnchanged = 2 // BLK_PERM_WRITE_UNCHANGED
	permResize         = 3 // BLK_PERM_RESIZE
	permCount          = 4
)

// The byte ranges (RAW_LOCK_PERM_BASE and RAW_LOCK_SHARED_BASE).
const (
	permBase   = 100
	sharedBase = 200
)

// Mode is how an image is used.
type Mode int

// Modes of use.
const (
	// ReadOnly reads; others may read.
	ReadOnly Mode = iota
	// Exclusive reads, writes and resizes; others may do none of it, except read where they take no lock for it.
	Exclusive
	// Shared reads and writes; others that say so too may as well.
	Shared
)

// held and refused are the permissions a mode has, and those it does not let others have.
func (m Mode) held() []int64 {
	switch m {
	case Exclusive:
		return []int64{permRead, permWrite, permResize}
	case Shared:
		return []int64{permRead, permWrite}
	}
	return []int64{permRead}
}

func (m Mode) refused() []int64 {
	if m == Shared {
		return nil
	}
	return []int64{permWrite, permResize}
}

// Conflict is the error of an image that somebody else uses in a way that excludes ours.
type Conflict struct {
	Path string
	Byte int64 // of the range, that the other one holds
}

// Error implements error.
func (c *Conflict) Error() string { return fmt.Sprintf("image '%s' is in use: %s", c.Path, c.what()) }

func (c *Conflict) what() string {
	names := [permCount]string{"reading", "writing", "rewriting of the same data", "resizing"}
	if c.Byte >= sharedBase {
		return "its user does not allow " + names[c.Byte-sharedBase]
	}
	return "its user is " + names[c.Byte-permBase] + " it"
}

// ErrUnsupported is the error of a file system without locks of this kind. The image can be used unlocked.
var ErrUnsupported = errors.New("the file system has no open file description locks")

// Take locks the open file f for a mode. On any error f has no lock of this package. f must be open for reading.
func Take(f *os.File, m Mode) error {
	for _, p := range m.held() {
		if err := set(f, unix.F_RDLCK, permBase+p, 1); err != nil {
			return undo(f, err)
		}
	}
	for _, p := range m.refused() {
		if err := set(f, unix.F_RDLCK, sharedBase+p, 1); err != nil {
			return undo(f, err)
		}
	}
	return check(f, m)
}

// check looks for others that exclude us. Both sides lock first and look then, so that of two that come together at
// least one sees the other.
func check(f *os.File, m Mode) error {
	var bytes []int64
	for _, p := range m.held() {
		bytes = append(bytes, sharedBase+p)
	}
	for _, p := range m.refused() {
		bytes = append(bytes, permBase+p)
	}
	for _, b := range bytes {
		used, err := heldByOther(f, b)
		if err != nil {
			return undo(f, err)
		}
		if used {
			return undo(f, &Conflict{Path: f.Name(), Byte: b})
		}
	}
	return nil
}

// heldByOther tells whether an open file other than f holds the byte.
func heldByOther(f *os.File, b int64) (bool, error) {
	lk := unix.Flock_t{Type: unix.F_WRLCK, Start: b, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lk); err != nil {
		return false, lockError(err)
	}
	return lk.Type != unix.F_UNLCK, nil
}

// Release takes every lock of this package off f. Closing all descriptors of the open file does that too.
func Release(f *os.File) error {
	if err := set(f, unix.F_UNLCK, permBase, permCount); err != nil {
		return err
	}
	return set(f, unix.F_UNLCK, sharedBase, permCount)
}

func undo(f *os.File, err error) error {
	return errors.Join(err, ignoreUnsupported(Release(f)))
}

func ignoreUnsupported(err error) error {
	if errors.Is(err, ErrUnsupported) {
		return nil
	}
	return err
}

func set(f *os.File, kind int16, start, length int64) error {
	lk := unix.Flock_t{Type: kind, Start: start, Len: length}
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return &Conflict{Path: f.Name(), Byte: start} // somebody holds it exclusively, which QEMU never does for long
	}
	return lockError(err)
}

func lockError(err error) error {
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("%w (%w)", ErrUnsupported, err)
	}
	return err
}
