package virterr

import (
	"errors"
	"fmt"
)

// Error is one failure as a libvirt client sees it. The zero From means "the driver" (QEMU, for the clients that look).
// An Error is immutable once returned.
type Error struct {
	Code    Code
	From    From
	Message string // detail without libvirt's prefix for the code; Error adds the prefix
	Err     error  // what caused it, or nil; not sent
}

// New returns an Error of the driver's own subsystem. The message says what was attempted, on which object, and what the
// user can do. A %w in format is kept for errors.Is and errors.As.
func New(code Code, format string, args ...any) *Error {
	return NewFrom(FromQEMU, code, format, args...)
}

// NewFrom is New for a given subsystem.
func NewFrom(from From, code Code, format string, args ...any) *Error {
	wrapped := fmt.Errorf(format, args...)
	return &Error{Code: code, From: from, Message: wrapped.Error(), Err: errors.Unwrap(wrapped)}
}

// Error returns the text a client prints: libvirt's prefix for the code, then the message.
func (e *Error) Error() string {
	prefix := prefixes[e.Code]
	switch {
	case prefix == "":
		return e.Message
	case e.Message == "":
		return prefix
	}
	return prefix + ": " + e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// As turns any error into the Error that goes on the wire: err itself or the outermost Error it wraps, else an
// INTERNAL_ERROR with err's text. As(nil) is nil.
func As(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: InternalError, From: FromQEMU, Message: err.Error(), Err: err}
}

// Is reports whether err is or wraps an Error with this code.
func Is(err error, code Code) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// prefixes are the texts that libvirt's clients expect before the detail.
var prefixes = map[Code]string{
	InternalError:        "internal error",
	NoMemory:             "out of memory",
	NoSupport:            "this function is not supported by the connection driver",
	NoConnect:            "no connection driver available",
	InvalidArg:           "invalid argument",
	OperationFailed:      "operation failed",
	XMLError:             "XML error",
	DomExist:             "domain already exists",
	OperationDenied:      "operation forbidden",
	ParseFailed:          "failed to parse configuration file",
	SystemError:          "",
	NoDomain:             "Domain not found",
	NoNetwork:            "Network not found",
	NoStoragePool:        "Storage pool not found",
	NoStorageVol:         "Storage volume not found",
	NoNodeDevice:         "Node device not found",
	NoSecret:             "Secret not found",
	NoDomainSnapshot:     "Domain snapshot not found",
	NoDomainCheckpoint:   "Domain checkpoint not found",
	NoInterface:          "Interface not found",
	NoNWFilter:           "Network filter not found",
	NoNWFilterBinding:    "Network filter binding not found",
	InvalidSecret:        "Invalid secret",
	NoDomainMetadata:     "metadata not found",
	AuthFailed:           "authentication failed",
	OperationInvalid:     "Requested operation is not valid",
	ConfigUnsupported:    "unsupported configuration",
	OperationTimeout:     "Timed out during operation",
	ArgumentUnsupported:  "argument unsupported",
	OperationAborted:     "operation aborted",
	OperationUnsupported: "Operation not supported",
	CPUIncompatible:      "the CPU is incompatible with host CPU",
	AgentUnresponsive:    "Guest agent is not responding",
	ResourceBusy:         "resource busy",
	AccessDenied:         "access denied",
	XMLInvalidSchema:     "XML document failed to validate against schema",
	DeviceMissing:        "device not found",
	NoNetworkPort:        "network port not found",
}
