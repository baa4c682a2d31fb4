package tftp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
	"time"
)

// Operations and error codes (RFC 1350, 5).
const (
	opRead  = 1
	opData  = 3
	opAck   = 4
	opError = 5
	opOACK  = 6 // RFC 2347

	errUndefined = 0
	errNotFound  = 1
	errIllegal   = 4
)

const (
	defaultBlock = 512
	minBlock     = 8 // RFC 2348
	maxName      = 512
)

// request is a guest's wish for a file.
type request struct {
	name    string
	block   int           // bytes
	timeout time.Duration // before a packet is sent again
	size    bool          // the guest wants to know the file's
	agreed  []string      // options to acknowledge, names and values in turn
}

// refusal is an answer that says why there is none.
type refusal struct {
	code uint16
	text string
}

func (r refusal) Error() string { return r.text }

var errIgnored = errors.New("not a request")

// parse reads the first packet of a transfer. most is the largest block that is sent.
func parse(packet []byte, most int) (request, error) {
	r := request{block: defaultBlock, timeout: firstTimeout}
	if len(packet) < 4 || binary.BigEndian.Uint16(packet) == opError {
		return r, errIgnored
	}
	if binary.BigEndian.Uint16(packet) != opRead || packet[len(packet)-1] != 0 {
		return r, refusal{errIllegal, "files can only be read"}
	}
	fields := bytes.Split(packet[2:len(packet)-1], []byte{0})
	if len(fields) < 2 || len(fields[0]) == 0 || len(fields[0]) > maxName {
		return r, refusal{errIllegal, "the request has no file name"}
	}
	if r.name = string(fields[0]); !strings.EqualFold(string(fields[1]), "octet") {
		return r, refusal{errIllegal, "only mode octet is supported"}
	}
	for opts := fields[2:]; len(opts) >= 2; opts = opts[2:] {
		r.option(strings.ToLower(string(opts[0])), string(opts[1]), most)
	}
	return r, nil
}

// option takes an option into account. One that is unknown or makes no sense is not acknowledged, which is how to refuse it.
func (r *request) option(name, text string, most int) {
	v, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return
	}
	switch {
	case name == "blksize" && v >= minBlock:
		r.block = min(int(v), most)
		r.agreed = append(r.agreed, name, strconv.Itoa(r.block))
	case name == "timeout" && v >= 1 && v <= 255:
		r.timeout = time.Duration(v) * time.Second
		r.agreed = append(r.agreed, name, text)
	case name == "tsize" && !r.size:
		r.size = true
	}
}

// acknowledgement is the answer to a request with options, nil for one without.
func (r *request) acknowledgement(size int64) []byte {
	agreed := r.agreed
	if r.size {
		agreed = append(agreed[:len(agreed):len(agreed)], "tsize", strconv.FormatInt(size, 10))
	}
	if len(agreed) == 0 {
		return nil
	}
	out := []byte{0, opOACK}
	for _, s := range agreed {
		out = append(append(out, s...), 0)
	}
	return out
}

// failure is the packet that ends a transfer.
func failure(r refusal) []byte {
	return append(append([]byte{0, opError, byte(r.code >> 8), byte(r.code)}, r.text...), 0)
}

// acknowledged returns the block that a packet acknowledges; ended says that the guest gave up.
func acknowledged(packet []byte) (block uint16, ok, ended bool) {
	if len(packet) < 4 {
		return 0, false, false
	}
	op := binary.BigEndian.Uint16(packet)
	return binary.BigEndian.Uint16(packet[2:]), op == opAck, op == opError
}
