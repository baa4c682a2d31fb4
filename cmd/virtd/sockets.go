package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
)

// The names under which libvirt's clients look for a daemon: first the modular daemon's, then the old one's. Which of them
// a client tries depends on how it was built, so that both are served.
var socketNames = []string{"libvirt-sock", "virtqemud-sock"}

const readOnlySuffix = "-ro"

// socket is one listener with what its clients may do.
type socket struct {
	net.Listener
	readOnly bool
}

// listen returns the sockets that systemd passed, or makes its own.
func listen(cfg config, log *slog.Logger) ([]socket, error) {
	passed, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("take the sockets that systemd passed: %w", err)
	}
	var sockets []socket
	for _, l := range passed {
		if l == nil {
			continue // a descriptor that is not a listening socket
		}
		name := l.Addr().String()
		sockets = append(sockets, socket{l, strings.HasSuffix(name, readOnlySuffix)})
		log.Info("listening", "socket", name, "from", "systemd")
	}
	if len(sockets) > 0 {
		return sockets, nil
	}
	return listenOwn(cfg, log)
}

func listenOwn(cfg config, log *slog.Logger) ([]socket, error) {
	dirMode := fs.FileMode(0o755)
	if cfg.Session {
		dirMode = 0o700
	}
	if err := os.MkdirAll(cfg.SocketDir, dirMode); err != nil {
		return nil, fmt.Errorf("make the directory for sockets: %w", err)
	}
	var sockets []socket
	for _, name := range socketNames {
		for _, ro := range []bool{false, true} {
			path, perm := filepath.Join(cfg.SocketDir, name), cfg.SocketMode
			if ro {
				path, perm = path+readOnlySuffix, cfg.SocketROMode
			}
			l, err := listenAt(path, perm, cfg.SocketGroup)
			if err != nil {
				for _, s := range sockets {
					s.Close()
				}
				return nil, err
			}
			log.Info("listening", "socket", path)
			sockets = append(sockets, socket{l, ro})
		}
	}
	return sockets, nil
}

// listenAt makes one socket, in place of one that a daemon left behind, with its permissions from the first moment on.
func listenAt(path string, perm fs.FileMode, group string) (net.Listener, error) {
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("another daemon serves %s: stop it (systemctl stop libvirtd.socket virtqemud.socket libvirtd virtqemud), or choose another --socket-dir", path)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&fs.ModeSocket == 0 {
			return nil, fmt.Errorf("%s is in the way: it is not a socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove the socket that an earlier daemon left: %w", err)
		}
	}
	// Made under another name and renamed, so that nobody can connect before the permissions are set.
	temp := path + ".new"
	_ = os.Remove(temp)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if err := expose(temp, path, perm, group); err != nil {
		l.Close()
		_ = os.Remove(temp)
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	return &ownSocket{l, path}, nil
}

func expose(temp, path string, perm fs.FileMode, group string) error {
	if gid, ok, err := lookupGroup(group); err != nil {
		return err
	} else if ok && os.Geteuid() == 0 {
		if err := os.Chown(temp, -1, int(gid)); err != nil {
			return err
		}
	}
	if err := os.Chmod(temp, perm); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// ownSocket removes its file when it closes.
type ownSocket struct {
	*net.UnixListener
	path string
}

// Close stops listening.
func (s *ownSocket) Close() error {
	_ = os.Remove(s.path)
	return s.UnixListener.Close()
}

// lookupGroup finds a group. The default one need not exist; one that was asked for must.
func lookupGroup(name string) (gid uint32, ok bool, err error) {
	if name == "" {
		return 0, false, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		var unknown user.UnknownGroupError
		if errors.As(err, &unknown) && name == defaultGroup {
			return 0, false, nil
		}
		return 0, false, fmt.Errorf("find group '%s' that may manage guests: %w", name, err)
	}
	n, err := strconv.ParseUint(g.Gid, 10, 32)
	if err != nil {
		return 0, false, fmt.Errorf("group '%s' has the id '%s'", name, g.Gid)
	}
	return uint32(n), true, nil
}
