package rpc

import (
	"fmt"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/virterr"
)

// levelError is the only level that errors on the wire have (VIR_ERR_ERROR).
const levelError = 2

// maxErrorText bounds an error's text on the wire, in bytes.
const maxErrorText = 64 << 10

// remoteError is libvirt's remote_error: the payload of a reply or stream packet with StatusError.
type remoteError struct {
	Code    int32
	Domain  int32
	Message libvirt.OptString
	Level   int32
	Dom     libvirt.OptDomain
	Str1    libvirt.OptString
	Str2    libvirt.OptString
	Str3    libvirt.OptString
	Int1    int32
	Int2    int32
	Net     libvirt.OptNetwork
}

// appendError appends err as a remote_error. The message is always set: go-libvirt cannot decode an error without one.
func appendError(b []byte, err error) ([]byte, error) {
	e := virterr.As(err)
	text := e.Error()
	if text == "" {
		text = "unknown error"
	}
	if len(text) > maxErrorText {
		text = text[:maxErrorText]
	}
	code := e.Code
	if code == 0 {
		code = virterr.InternalError // 0 would mean success to a client
	}
	return Marshal(b, &remoteError{
		Code:    int32(code),
		Domain:  int32(e.From),
		Message: libvirt.OptString{stripNUL(text)},
		Level:   levelError,
		Int1:    -1,
		Int2:    -1,
	})
}

func stripNUL(s string) string {
	for i := range len(s) {
		if s[i] == 0 {
			return s[:i]
		}
	}
	return s
}

// RemoteError is an error that came over the wire. Message is complete: libvirt's prefix for the code is part of it.
type RemoteError struct {
	Code    virterr.Code
	From    virterr.From
	Message string
}

// Error returns the peer's text.
func (e *RemoteError) Error() string { return e.Message }

// DecodeError decodes the payload of a message with StatusError.
func DecodeError(body []byte) error {
	var w remoteError
	if err := Unmarshal(body, &w); err != nil {
		return fmt.Errorf("decode the server's error: %w", err)
	}
	e := &RemoteError{Code: virterr.Code(w.Code), From: virterr.From(w.Domain), Message: "unknown error"}
	if len(w.Message) > 0 {
		e.Message = w.Message[0]
	}
	return e
}

// rpcError is an error of the protocol itself.
func rpcError(format string, args ...any) *virterr.Error {
	return virterr.NewFrom(virterr.FromRPC, virterr.RPC, format, args...)
}
