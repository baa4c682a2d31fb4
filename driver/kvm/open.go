package kvm

import (
	"errors"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"virtd/domain"
	"virtd/hypervisor"
	"virtd/network/bridge"
	"virtd/virterr"
)

// opened are the host resources of one engine about to start.
type opened struct {
	files   []*os.File // in the order of Config.Files
	runtime domain.Runtime
	images  []imageRecord
	taps    map[string]string   // alias: device
	sockets []string            // paths to remove at the end
	links   []string            // records of macvtaps
	dir     string              // of the engine
	name    string              // of the domain
	helpers []string            // aliases of interfaces behind which a process was started
	chains  []chainFile         // backing images, which no plan can know
	groups  map[string]*os.File // IOMMU groups by number
	release func(taps map[string]string)
}

// close closes virtd's descriptors. The engine has its own.
func (o *opened) close() {
	for _, f := range o.files {
		f.Close()
	}
	o.files = nil
	for _, c := range o.chains {
		c.file.Close()
	}
	o.chains = nil
}

// discard undoes what open did.
func (d *Driver) discard(o *opened) error {
	o.close()
	o.release(o.taps)
	var errs []error
	for _, path := range o.sockets {
		errs = append(errs, ignoreMissing(os.Remove(path)))
	}
	for _, path := range o.links {
		errs = append(errs, removeLink(d.cfg.Links, path))
	}
	for _, alias := range o.helpers {
		errs = append(errs, d.cfg.UserNets.Stop(o.dir, alias))
	}
	return errors.Join(errs...)
}

// open opens every resource of a plan. On an error nothing stays behind.
func (d *Driver) open(cfg hypervisor.Config, resources []Resource, dir string) (*opened, error) {
	o := &opened{dir: dir, name: cfg.Name, taps: map[string]string{}, release: d.releaseTaps, runtime: domain.Runtime{
		Taps: map[string]string{}, NetDrivers: map[string]string{}, TTYs: map[string]string{}, Sources: map[string]string{},
		Chains: map[string][]domain.BackingImage{}, NetBackends: map[string]string{}, NetAddresses: map[string][]string{},
	}}
	for _, nic := range cfg.NICs {
		if nic.Driver != "" {
			o.runtime.NetDrivers[nic.ID] = nic.Driver
		}
	}
	for _, r := range resources {
		files, err := d.openResource(o, r, dir)
		o.files = append(o.files, files...)
		if err == nil && len(files) != len(r.Files) {
			err = virterr.New(virterr.InternalError, "resource %s of %s has %d descriptors, planned were %d", r.Kind, r.Alias, len(files), len(r.Files))
		}
		if err != nil {
			return nil, errors.Join(err, d.discard(o))
		}
	}
	return o, nil
}

func (d *Driver) openResource(o *opened, r Resource, dir string) ([]*os.File, error) {
	switch r.Kind {
	case ResourceKVM:
		fd, err := unix.Open(r.Path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, kvmError(r.Path, err)
		}
		return one(os.NewFile(uintptr(fd), r.Path), nil)
	case ResourceMonitor:
		return one(listen(filepath.Join(dir, monitorSocket)))
	case ResourceExit:
		return one(os.OpenFile(filepath.Join(dir, exitFile), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600))
	case ResourceKernel:
		return one(openRegular("kernel", r.Path, unix.O_RDONLY))
	case ResourceInitrd:
		return one(openRegular("initrd", r.Path, unix.O_RDONLY))
	case ResourceDisk:
		f, image, err := d.openImage(r)
		if err != nil {
			return nil, err
		}
		o.images = append(o.images, image)
		return one(f, d.openChain(o, f, r))
	case ResourceTap:
		return d.openTap(o, r)
	case ResourceBPF:
		return openSteering(r)
	case ResourceMacvtap:
		return d.openMacvtap(o, r, dir)
	case ResourceUserNet:
		return one(d.openUserNet(o, r))
	case ResourceVhost:
		return d.openVhostNet(r)
	case ResourceVhostUser:
		return d.openVhostUser(o, r)
	case ResourceChardev:
		return one(openChardev(o, r))
	case ResourceLog:
		flags := unix.O_WRONLY | unix.O_CREAT | unix.O_APPEND
		if !r.Append {
			flags |= unix.O_TRUNC
		}
		return one(openRegular("console log", r.Path, flags))
	case ResourceVFIO:
		return one(d.cfg.Hostdevs.OpenContainer())
	case ResourceIOMMUFD:
		return one(d.cfg.Hostdevs.OpenIOMMUFD())
	case ResourceHostdev:
		return one(d.openHostdev(o, r))
	case ResourceROM:
		return one(openROM(r.Path))
	case ResourceRNG:
		f, _, err := openAny("entropy source", r.Path, unix.O_RDONLY)
		return one(f, err)
	}
	return nil, virterr.New(virterr.InternalError, "unknown kind of resource '%s'", r.Kind)
}

// one makes a list of the one descriptor a resource has. With an error f is closed, if there is one.
func one(f *os.File, err error) ([]*os.File, error) {
	if err != nil {
		if f != nil {
			f.Close()
		}
		return nil, err
	}
	return []*os.File{f}, nil
}

func (d *Driver) openTap(o *opened, r Resource) ([]*os.File, error) {
	mac, err := net.ParseMAC(r.Tap.MAC)
	if err != nil {
		return nil, virterr.New(virterr.InvalidMAC, "interface %s: '%s' is no MAC address", r.Alias, r.Tap.MAC)
	}
	c := bridge.TapConfig{
		Name: r.Tap.Name, Bridge: r.Tap.Bridge, MAC: mac, MTU: r.Tap.MTU, Queues: r.Tap.Queues, Owner: -1, Unmanaged: r.Tap.Unmanaged,
		Isolated: r.Tap.Isolated, Device: r.Tap.Device, Coalesce: r.Tap.Coalesce,
	}
	if r.Tap.VLAN != nil {
		c.VLAN = *r.Tap.VLAN
	}
	if r.Tap.Bandwidth != nil {
		c.Bandwidth = *r.Tap.Bandwidth
	}
	tap, err := d.cfg.Links.OpenTap(c)
	if err != nil {
		return nil, err
	}
	if r.Tap.Steered {
		err = takesSteering(tap, r.Alias)
	}
	if err == nil {
		err = d.setFilter(tap.Name, r.Tap.Filter)
	}
	if err != nil { // before the guest can send anything
		tap.Close()
		return nil, err
	}
	o.taps[r.Alias], o.runtime.Taps[r.Alias] = tap.Name, tap.Name
	return tap.Files, nil
}

// openChardev opens the host side of a serial port or console.
func openChardev(o *opened, r Resource) (*os.File, error) {
	switch r.Chardev.Type {
	case "pty":
		f, path, err := openPTY()
		if err == nil {
			o.runtime.TTYs[r.Alias] = path
		}
		return f, err
	case "unix":
		if !r.Chardev.Listen {
			return connect(r.Path)
		}
		f, err := listen(r.Path)
		if err == nil {
			o.sockets = append(o.sockets, r.Path)
		}
		return f, err
	case "file":
		flags := unix.O_WRONLY | unix.O_CREAT
		if r.Chardev.Append {
			flags |= unix.O_APPEND
		} else {
			flags |= unix.O_TRUNC
		}
		f, _, err := openAny("character device file", r.Path, flags)
		return f, err
	}
	return nil, virterr.New(virterr.ConfigUnsupported, "character device %s of type '%s' is not supported", r.Alias, r.Chardev.Type)
}

// listen makes a listening unix socket. A socket file that nobody listens on any more is replaced.
func listen(path string) (*os.File, error) {
	if len(path) > maxSocketPath {
		return nil, virterr.New(virterr.ConfigUnsupported, "UNIX socket path '%s' too long: %d bytes are possible", path, maxSocketPath)
	}
	addr := &net.UnixAddr{Name: path, Net: "unix"}
	l, err := net.ListenUnix("unix", addr)
	if errors.Is(err, unix.EADDRINUSE) {
		if st, serr := os.Lstat(path); serr == nil && st.Mode()&os.ModeSocket == 0 {
			return nil, virterr.New(virterr.SystemError, "Failed to bind socket to '%s': a file that is no socket has that name", path)
		}
		if c, derr := net.DialUnix("unix", nil, addr); derr == nil {
			c.Close()
			return nil, virterr.New(virterr.SystemError, "Failed to bind socket to '%s': somebody listens there", path)
		} else if !errors.Is(derr, unix.ECONNREFUSED) {
			return nil, virterr.New(virterr.SystemError, "Failed to bind socket to '%s': %w", path, virterr.Strerror(err))
		}
		if err := os.Remove(path); err != nil {
			return nil, virterr.New(virterr.SystemError, "Failed to replace stale socket '%s': %w", path, virterr.Strerror(err))
		}
		l, err = net.ListenUnix("unix", addr)
	}
	if err != nil {
		return nil, virterr.New(virterr.SystemError, "Failed to bind socket to '%s': %w", path, virterr.Strerror(err))
	}
	l.SetUnlinkOnClose(false)
	defer l.Close() // File has duplicated it
	return l.File()
}

// connect connects to somebody else's unix socket.
func connect(path string) (*os.File, error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, virterr.New(virterr.SystemError, "Failed to connect socket to '%s': %w", path, virterr.Strerror(err))
	}
	defer c.Close()
	return c.File()
}
