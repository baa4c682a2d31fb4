package storage

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// failure is an error of this package.
func failure(code virterr.Code, format string, args ...any) error {
	return virterr.NewFrom(virterr.FromStorage, code, format, args...)
}

// cause is the kernel's word without the call and the path, which the texts here give themselves, and as the C library
// writes it, which is what people search for.
func cause(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return systemError{errno}
	}
	return err
}

type systemError struct{ errno unix.Errno }

// Error returns strerror's text, which differs from Go's in the first letter.
func (e systemError) Error() string {
	text := e.errno.Error()
	return strings.ToUpper(text[:1]) + text[1:]
}

// Unwrap returns the number.
func (e systemError) Unwrap() error { return e.errno }
