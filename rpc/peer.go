package rpc

import (
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Peer is the process at the other end of a connection, as the kernel saw it connect.
type Peer struct {
	Known  bool // false where the kernel does not say, as over TCP
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary
	PID    int32
	Addr   string // of another host's, as over TCP
}

// InGroup reports whether the process belonged to a group when it connected.
func (p Peer) InGroup(gid uint32) bool {
	return p.Known && (p.GID == gid || slices.Contains(p.Groups, gid))
}

// LogValue prints the peer compactly.
func (p Peer) LogValue() slog.Value {
	if p.Addr != "" {
		return slog.StringValue(p.Addr)
	}
	if !p.Known {
		return slog.StringValue("unknown")
	}
	return slog.StringValue(fmt.Sprintf("pid %d uid %d", p.PID, p.UID))
}

// peerOf asks the kernel for SO_PEERCRED.
func peerOf(conn net.Conn) Peer {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return remotePeer(conn)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return Peer{}
	}
	var cred *unix.Ucred
	var groups []uint32
	if raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		groups = peerGroups(int(fd))
	}) != nil || err != nil {
		return Peer{}
	}
	return Peer{Known: true, UID: cred.Uid, GID: cred.Gid, Groups: groups, PID: cred.Pid}
}

func remotePeer(conn net.Conn) Peer {
	addr := conn.RemoteAddr()
	if addr == nil || !strings.HasPrefix(addr.Network(), "tcp") {
		return Peer{}
	}
	return Peer{Addr: addr.String()}
}
