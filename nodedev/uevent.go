package nodedev

import (
	"bytes"
	"encoding/binary"
	"errors"
	"path"
	"strings"
)

// Uevent is what the kernel, or udevd after it, says about one device.
type Uevent struct {
	Action string // add, remove, change, move, bind, unbind, online, offline
	Path   string // as in Device
}

// ErrMissed is what a Source returns when the kernel had more to say than fitted: what exists must be looked at anew.
var ErrMissed = errors.New("uevents were lost")

// Source gives uevents one at a time until it is closed. A Receive that waits when Close is called returns an error.
type Source interface {
	Receive() (Uevent, error)
	Close() error
}

// maxUevent is the most that one message has: the kernel's buffer is 2 KiB, udevd's properties come on top.
const maxUevent = 16 << 10

var errUevent = errors.New("not a uevent")

// parseUevent reads a message of the kernel ("add@/devices/...", then KEY=value, all ended by zeros) or of udevd (a binary
// header that says where the same properties are).
func parseUevent(msg []byte) (Uevent, error) {
	properties, ok := udevProperties(msg)
	if !ok {
		head, rest, found := bytes.Cut(msg, []byte{0})
		if !found || !bytes.Contains(head, []byte("@/")) {
			return Uevent{}, errUevent
		}
		properties = rest
	}
	var u Uevent
	for field := range bytes.SplitSeq(properties, []byte{0}) {
		key, value, _ := strings.Cut(string(field), "=")
		switch key {
		case "ACTION":
			u.Action = value
		case "DEVPATH":
			u.Path = value
		}
	}
	clean := path.Clean(u.Path)
	if u.Action == "" || clean != u.Path || !strings.HasPrefix(clean, "/devices/") {
		return Uevent{}, errUevent
	}
	u.Path = clean[1:]
	return u, nil
}

// udevProperties finds the properties in a message of udevd. The header is struct udev_monitor_netlink_header of systemd:
// "libudev\0", a magic number in network order, then in the host's order the header's size and where the properties are.
func udevProperties(msg []byte) ([]byte, bool) {
	const (
		prefix = "libudev\x00"
		magic  = 0xfeedcafe
	)
	if len(msg) < 24 || string(msg[:8]) != prefix || binary.BigEndian.Uint32(msg[8:]) != magic {
		return nil, false
	}
	at, size := uint64(binary.NativeEndian.Uint32(msg[16:])), uint64(binary.NativeEndian.Uint32(msg[20:]))
	if at < 24 || at+size > uint64(len(msg)) {
		return nil, false
	}
	return msg[at : at+size], true
}
