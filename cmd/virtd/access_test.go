package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"virtd/rpc"
	"virtd/virterr"
)

func TestPolicies(t *testing.T) {
	c := systemDefaults(t)
	c.SocketGroup = "daemon" // gid 1 on every Debian
	manage, look, err := policies(c)
	if err != nil {
		t.Fatal(err)
	}
	if !look.ReadOnly || look.Admit != nil || manage.ReadOnly {
		t.Errorf("look %+v, manage %+v", look, manage)
	}
	tests := []struct {
		name string
		peer rpc.Peer
		want string // part of the refusal, empty for none
	}{
		{"root", rpc.Peer{Known: true}, ""},
		{"own user", rpc.Peer{Known: true, UID: uint32(os.Geteuid()), GID: 77}, ""},
		{"primary group", rpc.Peer{Known: true, UID: 4242, GID: 1}, ""},
		{"supplementary group", rpc.Peer{Known: true, UID: 4242, GID: 9, Groups: []uint32{5, 1}}, ""},
		{"stranger", rpc.Peer{Known: true, UID: 4242, GID: 9, Groups: []uint32{5}}, "user with uid 4242 may not manage guests: not in group 'daemon'"},
		{"nobody knows", rpc.Peer{}, "the kernel does not say"},
	}
	for _, tt := range tests {
		err := manage.Admit(tt.peer)
		if tt.want == "" && err != nil || tt.want != "" && (!virterr.Is(err, virterr.AuthFailed) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestUnknownGroup(t *testing.T) {
	c := systemDefaults(t)
	c.SocketGroup = "no-such-group-here"
	if _, _, err := policies(c); err == nil {
		t.Error("a group that does not exist was accepted")
	}
}

func TestSessionServesItsUserOnly(t *testing.T) {
	manage, _, err := policies(config{Session: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := manage.Admit(rpc.Peer{Known: true, UID: uint32(os.Geteuid())}); err != nil {
		t.Error(err)
	}
	if err := manage.Admit(rpc.Peer{Known: true, UID: 4242}); err == nil {
		t.Error("another user was admitted")
	}
}

func TestListenAt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	first, err := listenAt(path, 0o620, "")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o620 {
		t.Errorf("%v, %v", info, err)
	}
	go func() {
		for {
			c, err := first.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	if _, err := listenAt(path, 0o600, ""); err == nil || !strings.Contains(err.Error(), "another daemon serves") {
		t.Errorf("a second daemon: %v", err)
	}
	first.Close()
	if exists(path) {
		t.Error("the socket is left behind")
	}
	// what a daemon that was killed leaves is replaced
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	l, err := listenAt(path, 0o600, "")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	// anything else is not
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenAt(path, 0o600, ""); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file in the way: %v", err)
	}
}
