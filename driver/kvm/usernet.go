package kvm

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"virtd/network/usernet"
	"virtd/virterr"
)

// UserNets starts and ends the processes behind interfaces of type user; *usernet.Supervisor does.
type UserNets interface {
	Start(usernet.Config) (*os.File, usernet.Info, error)
	Adopt(dir string)
	Stop(dir, alias string) error
	StopAll(dir string) error
	OnLost(func(usernet.Config, func() (*os.File, error)) error)
}

// openUserNet starts the process behind an interface and returns the engine's end of its socket.
func (d *Driver) openUserNet(o *opened, r Resource) (*os.File, error) {
	if d.cfg.UserNets == nil {
		return nil, virterr.New(virterr.ConfigUnsupported, "interface %s of type 'user' is not possible with this virtd", r.Alias)
	}
	f, info, err := d.cfg.UserNets.Start(usernet.Config{
		Dir: o.dir, Domain: o.name, Alias: r.Alias, MAC: r.UserNet.MAC, MTU: r.UserNet.MTU, Network: r.UserNet.Network,
	})
	if err != nil {
		return nil, err
	}
	o.helpers = append(o.helpers, r.Alias)
	if info.Backend == usernet.Passt {
		o.runtime.NetBackends[r.Alias] = string(usernet.Passt)
	}
	for _, p := range info.Addresses {
		o.runtime.NetAddresses[r.Alias] = append(o.runtime.NetAddresses[r.Alias], p.String())
	}
	return f, nil
}

// userNetLost gives the engine whose process behind an interface ended another one, unless the engine is gone too.
func (d *Driver) userNetLost(c usernet.Config, start func() (*os.File, error)) error {
	i := d.instance(c.Dir)
	if i == nil || i.killed.Load() || i.leaving.Load() {
		return nil
	}
	select { // mostly a process ends because its engine did
	case <-i.proc.Done():
		return nil
	case <-i.ctx.Done():
		return nil
	case <-time.After(engineEnds):
	}
	f, err := start()
	if err != nil {
		return err
	}
	defer f.Close()
	client, err := i.monitor()
	if err != nil {
		return errors.Join(err, d.cfg.UserNets.Stop(c.Dir, c.Alias))
	}
	ctx, cancel := context.WithTimeout(i.ctx, 10*time.Second)
	defer cancel()
	err = i.explain("x-virtd-net-stream", client.ExecuteFiles(ctx, "x-virtd-net-stream", map[string]string{"id": c.Alias}, []*os.File{f}, nil))
	if err != nil {
		return errors.Join(err, d.cfg.UserNets.Stop(c.Dir, c.Alias))
	}
	return nil
}

// engineEnds is how long it takes at most until the end of an engine is noticed after that of what it talks to.
const engineEnds = time.Second

// instance returns the running engine whose directory that is, nil if there is none.
func (d *Driver) instance(dir string) *instance {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.instances[dir]
}

// show makes an engine known by its directory; hide takes it back.
func (d *Driver) show(i *instance) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.instances[i.rec.Dir] = i
}

func (d *Driver) hide(i *instance) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.instances[i.rec.Dir] == i {
		delete(d.instances, i.rec.Dir)
	}
}

// LinkRemoved is told that a link of the host is gone, or, with "" and 0, that any may be. The cable of the interface that was on it is pulled: nothing else tells
// the guest of a macvtap whose device vanished.
func (d *Driver) LinkRemoved(name string, index int) {
	d.mu.Lock()
	var all []*instance
	for _, i := range d.instances {
		all = append(all, i)
	}
	d.mu.Unlock()
	for _, i := range all {
		if name == "" {
			i.checkLinks()
			continue
		}
		for alias, l := range i.macvtaps() {
			if l.Name == name && l.Index == index {
				i.linkLost(alias, l)
			}
		}
	}
}

// linkLost pulls the cable of an interface whose macvtap is gone.
func (i *instance) linkLost(alias string, l linkRecord) {
	i.background.Go(func() {
		if i.proc.Ended() || i.ctx.Err() != nil {
			return
		}
		i.d.log.Error("the macvtap of an interface is gone, probably with the device below it; the guest sees its cable pulled",
			"domain", i.name, "interface", alias, "macvtap", l.Name, "device", l.Parent)
		ctx, cancel := context.WithTimeout(i.ctx, 10*time.Second)
		defer cancel()
		if err := i.SetLink(ctx, alias, false); err != nil && !i.proc.Ended() {
			i.d.log.Warn("the guest is not told that an interface lost its device", "domain", i.name, "interface", alias, "err", err)
		}
	})
}

// checkLinks looks for macvtaps that vanished while nobody watched.
func (i *instance) checkLinks() {
	for alias, l := range i.macvtaps() {
		if now, err := i.d.cfg.Links.Link(l.Name); errors.Is(err, unix.ENODEV) || err == nil && now.Index != l.Index {
			i.linkLost(alias, l)
		}
	}
}
