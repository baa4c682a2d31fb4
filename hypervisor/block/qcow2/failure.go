package qcow2

import (
	"errors"
	"fmt"
)

// ErrNotQcow2 is the error of a file that does not begin as a qcow2 image.
var ErrNotQcow2 = errors.New("not a qcow2 image: the file does not begin with its magic number")

// ErrDirty is the error of an image whose refcounts may be wrong because it was not closed, when opened for writing.
var ErrDirty = errors.New("the image was not closed and its refcounts may be wrong; it must be repaired first")

// UnsupportedError is the error of an image that needs what this package does not have.
type UnsupportedError struct{ What string }

// Error implements error.
func (e *UnsupportedError) Error() string {
	return "the image uses " + e.What + ", which is not supported"
}

// CorruptError is the error of metadata that contradicts itself or points where it must not.
type CorruptError struct{ What string }

// Error implements error.
func (e *CorruptError) Error() string { return "corrupt image: " + e.What }

func corrupt(format string, args ...any) error { return &CorruptError{fmt.Sprintf(format, args...)} }
