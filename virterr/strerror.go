package virterr

import (
	"errors"
	"strings"
	"syscall"
)

// Strerror is the kernel's word in err without the call and the path around it, which messages tell themselves, and as the C
// library writes it, which is what people search for. An err without an errno stays as it is; errors.Is and As still find it.
func Strerror(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return systemError{errno}
	}
	return err
}

type systemError struct{ errno syscall.Errno }

// Error differs from Go's text in the first letter.
func (e systemError) Error() string {
	text := e.errno.Error()
	return strings.ToUpper(text[:1]) + text[1:]
}

// Unwrap returns the number.
func (e systemError) Unwrap() error { return e.errno }
