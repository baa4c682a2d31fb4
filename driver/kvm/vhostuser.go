package kvm

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"virtd/domain"
	"virtd/driver/kvm/qmp"
	"virtd/virterr"
)

// vhostUserWait is how long the process that serves a device has to be there when the device is made: the guest is told
// what that process can do, and cannot be told otherwise later.
var vhostUserWait = 30 * time.Second // tests have less

// firstRejoin is how often it is tried to reach a process that should be there and is not yet.
const firstRejoin = 250 * time.Millisecond

// openVhostUser returns the engine's end of the connection to the process that serves a device, and of a server the socket
// on which it listens for the next one.
func (d *Driver) openVhostUser(o *opened, r Resource) ([]*os.File, error) {
	if !r.VhostUser.Server {
		return one(dialVhostUser(r.Path, r.VhostUser.Reconnect > 0))
	}
	listening, err := listen(r.Path)
	if err != nil {
		return nil, err
	}
	o.sockets = append(o.sockets, r.Path)
	conn, err := acceptVhostUser(listening)
	if err != nil {
		listening.Close()
		return nil, virterr.New(virterr.OperationFailed, "%s: no vhost-user process connected to '%s' within %v: %w", r.Alias, r.Path, vhostUserWait, err)
	}
	return []*os.File{conn, listening}, nil
}

// dialVhostUser connects to a process; a patient one waits until it is there.
func dialVhostUser(path string, patient bool) (*os.File, error) {
	for end := time.Now().Add(vhostUserWait); ; time.Sleep(firstRejoin) {
		f, err := connect(path)
		if err == nil || !patient || !absent(err) || time.Now().After(end) {
			return f, err
		}
	}
}

// absent reports whether a connection failed because nobody listens yet.
func absent(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED)
}

func acceptVhostUser(listening *os.File) (*os.File, error) {
	l, err := net.FileListener(listening)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	ul := l.(*net.UnixListener)
	ul.SetUnlinkOnClose(false)
	if err := ul.SetDeadline(time.Now().Add(vhostUserWait)); err != nil {
		return nil, err
	}
	c, err := ul.AcceptUnix()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.File()
}

// vhostUserChanged is told that the process that serves a device came or went. A client finds the next one.
func (i *instance) vhostUserChanged(alias string, connected bool) {
	socket, ok := i.definition().VhostUser(alias)
	if !ok || connected {
		return
	}
	i.d.log.Warn("the process that serves a device is gone; its rings stand still until there is another",
		"domain", i.name, "device", alias, "socket", socket.Path, "server", socket.Server, "reconnect", socket.Reconnect)
	if socket.Server || socket.Reconnect == 0 {
		return
	}
	if _, busy := i.rejoining.LoadOrStore(alias, true); busy {
		return
	}
	i.background.Go(func() {
		defer i.rejoining.Delete(alias)
		i.rejoin(alias)
	})
}

// rejoin looks for the process that serves a device until it is there, the device is gone, or the engine.
func (i *instance) rejoin(alias string) {
	said := ""
	for {
		socket, ok := i.definition().VhostUser(alias)
		if !ok || i.proc.Ended() || i.ctx.Err() != nil {
			return
		}
		err := i.rejoinOnce(alias, socket)
		var refused *qmp.Error
		switch {
		case err == nil:
			i.d.log.Info("a device is served again", "domain", i.name, "device", alias, "socket", socket.Path)
			return
		case errors.As(err, &refused) && i.served(alias):
			return // somebody else was faster
		case !absent(err) && err.Error() != said: // each reason once, and not that nobody is there yet
			said = err.Error()
			i.d.log.Warn("cannot have a device served again", "domain", i.name, "device", alias, "socket", socket.Path, "err", printable(said))
		}
		i.pause(time.Duration(socket.Reconnect) * time.Second)
	}
}

func (i *instance) rejoinOnce(alias string, socket domain.VhostUser) error {
	f, err := connect(socket.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	client, err := i.monitor()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(i.ctx, 20*time.Second)
	defer cancel()
	return client.ExecuteFiles(ctx, "x-virtd-vhost-user", map[string]string{"id": alias}, []*os.File{f}, nil)
}

// vhostUser is a device of the reply to x-virtd-vhost-users.
type vhostUser struct {
	ID        string `json:"id"`
	Connected bool   `json:"connected"`
}

// vhostUsers asks the engine for the devices that other processes serve.
func (i *instance) vhostUsers(ctx context.Context) ([]vhostUser, error) {
	var reply []vhostUser
	return reply, i.execute(ctx, "x-virtd-vhost-users", nil, &reply)
}

// served reports whether a device has a process by now.
func (i *instance) served(alias string) bool {
	ctx, cancel := context.WithTimeout(i.ctx, 10*time.Second)
	defer cancel()
	all, err := i.vhostUsers(ctx)
	for _, v := range all {
		if err == nil && v.ID == alias {
			return v.Connected
		}
	}
	return false
}

// catchUpVhostUsers does what was missed while nobody heard the engine.
func (i *instance) catchUpVhostUsers(ctx context.Context) {
	all, err := i.vhostUsers(ctx)
	if err != nil { // an older engine has none
		return
	}
	for _, v := range all {
		i.vhostUserChanged(v.ID, v.Connected)
	}
}

// dropVhostUserSocket removes the socket of a device that is gone. The caller holds recMu.
func (i *instance) dropVhostUserSocket(alias string) {
	socket, ok := i.live.VhostUser(alias)
	if !ok || !socket.Server {
		return
	}
	var kept []string
	for _, path := range i.rec.Sockets {
		if path != socket.Path {
			kept = append(kept, path)
		}
	}
	i.rec.Sockets = kept
	if err := ignoreMissing(os.Remove(socket.Path)); err != nil {
		i.d.log.Error("the socket of a device that is gone stays", "domain", i.name, "device", alias, "err", err)
	}
}
