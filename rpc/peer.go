package rpc

import (
	"fmt"
	"log/slog"
	"net"

	"golang.org/x/sys/unix"
)

// Peer is the process at the other end of a connection, as the kernel saw it connect.
type Peer struct {
	Known bool // false where the kernel does not say, as over TCP
	UID   uint32
	GID   uint32
	PID   int32
}

// LogValue prints the peer compactly.
func (p Peer) LogValue() slog.Value {
	if !p.Known {
		return slog.StringValue("unknown")
	}
	return slog.StringValue(fmt.Sprintf("pid %d uid %d", p.PID, p.UID))
}

// peerOf asks the kernel for SO_PEERCRED.
func peerOf(conn net.Conn) Peer {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return Peer{}
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return Peer{}
	}
	var cred *unix.Ucred
	if raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }) != nil || err != nil {
		return Peer{}
	}
	return Peer{Known: true, UID: cred.Uid, GID: cred.Gid, PID: cred.Pid}
}
