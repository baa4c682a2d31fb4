package nodedev

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestTrusted: any process may send to the socket; only the kernel, and root in udevd's group, are listened to.
func TestTrusted(t *testing.T) {
	credentials := func(uid uint32) []byte { return unix.UnixCredentials(&unix.Ucred{Pid: 4711, Uid: uid}) }
	for _, c := range []struct {
		name  string
		group uint32
		from  unix.Sockaddr
		oob   []byte
		want  bool
	}{
		{"the kernel", groupKernel, &unix.SockaddrNetlink{Groups: groupKernel}, credentials(0), true},
		{"a process in the kernel's group", groupKernel, &unix.SockaddrNetlink{Groups: groupKernel, Pid: 4711}, credentials(0), false},
		{"a message to us alone", groupKernel, &unix.SockaddrNetlink{}, credentials(0), false},
		{"udevd", groupUdev, &unix.SockaddrNetlink{Groups: groupUdev, Pid: 4711}, credentials(0), true},
		{"a user in udevd's group", groupUdev, &unix.SockaddrNetlink{Groups: groupUdev, Pid: 4711}, credentials(1000), false},
		{"nobody knows who", groupUdev, &unix.SockaddrNetlink{Groups: groupUdev, Pid: 4711}, nil, false},
		{"broken credentials", groupUdev, &unix.SockaddrNetlink{Groups: groupUdev, Pid: 4711}, credentials(0)[:17], false},
		{"another kind of socket", groupUdev, &unix.SockaddrUnix{}, credentials(0), false},
	} {
		if got := (&monitor{group: c.group}).trusted(c.from, c.oob); got != c.want {
			t.Errorf("%s: trusted is %v", c.name, got)
		}
	}
}
