package storage

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// fsPool is a pool of type fs: a block device or an image with a file system, which is mounted at the target. Its volumes are
// those of a directory.
type fsPool struct {
	*dirPool
	m *Manager
}

func (p *fsPool) exclusive() bool { return true }

func (p *fsPool) device() string { return p.d.source.devices[0] }

// makers are the programs' arguments that make a file system without asking back: the device was looked at already.
var makers = map[string][]string{
	"ext2": {"-q", "-F"}, "ext3": {"-q", "-F"}, "ext4": {"-q", "-F"}, "xfs": {"-q", "-f"}, "vfat": {"-I"},
}

// build makes the directory and, with one of the flags, the file system. Without a flag the device is left alone, as with
// libvirt.
func (p *fsPool) build(ctx context.Context, flags BuildFlags) error {
	if flags != 0 {
		if err := p.format(ctx, flags); err != nil {
			return err
		}
	}
	return p.dirPool.build(ctx, flags)
}

// format makes the file system.
func (p *fsPool) format(ctx context.Context, flags BuildFlags) error {
	args, known := makers[p.d.source.format]
	program := "mkfs." + p.d.source.format
	switch {
	case p.d.source.format == formatAuto:
		return failure(virterr.ConfigUnsupported, "cannot make a filesystem on '%s': the pool says <format type='auto'/>; name one: ext2, ext3, ext4, xfs, vfat", p.device())
	case !known:
		return failure(virterr.ConfigUnsupported, "making a filesystem of type '%s' is not supported; there are ext2, ext3, ext4, xfs and vfat: "+
			"make it yourself and build the pool without flags", p.d.source.format)
	case !p.m.host.Has(program):
		return failure(virterr.OperationUnsupported, "cannot find '%s' in path: install the package that has it, such as e2fsprogs, xfsprogs or dosfstools", program)
	}
	dev, err := p.m.openDevice(p.device(), os.O_RDWR)
	if err != nil {
		return err
	}
	defer dev.Close()
	if flags == BuildDestroy {
		err = dev.erase()
	} else {
		err = dev.mustBeEmpty()
	}
	if err != nil {
		return err
	}
	dev.Close() // the program wants it for itself
	if _, err := p.m.host.Run(ctx, program, append(slices.Clone(args), p.m.host.Path(p.device()))...); err != nil {
		return failure(virterr.InternalError, "Failed to make filesystem of type '%s' on device '%s': %w", p.d.source.format, p.device(), err)
	}
	return nil
}

// mounted reports whether the source is mounted at the target. It is an error when something else is.
func (p *fsPool) mounted() (bool, error) {
	list, err := p.m.host.Mounts()
	if err != nil {
		return false, failure(virterr.SystemError, "cannot list what is mounted: %w", err)
	}
	target := canonical(p.d.target)
	i := len(list) - 1 // the last mount at a place is the one that is seen
	for ; i >= 0 && list[i].Target != target; i-- {
	}
	if i < 0 {
		return false, nil
	}
	if st, err := os.Stat(p.m.host.Path(p.device())); err == nil && p.m.isSource(list[i], p.device(), st) || list[i].Source == p.device() {
		return true, nil
	}
	return false, failure(virterr.OperationInvalid, "target path '%s' of pool '%s' has '%s' mounted already", p.d.target, p.d.name, list[i].Source)
}

func (p *fsPool) start(ctx context.Context) error {
	mounted, err := p.mounted()
	if err == nil && !mounted {
		err = p.mount(ctx)
	}
	if err != nil {
		return err
	}
	if err := p.dirPool.start(ctx); err != nil {
		if !mounted {
			err = errors.Join(err, p.m.host.Unmount(p.d.target))
		}
		return err
	}
	return nil
}

// mount mounts the device.
func (p *fsPool) mount(ctx context.Context) error {
	if err := p.dirPool.refresh(ctx); err != nil { // the directory is missing, or no directory
		return err
	}
	dev, err := p.m.openDevice(p.device(), os.O_RDONLY)
	if err != nil {
		return err
	}
	kind, err := p.fileSystem(dev)
	dev.Close()
	if err != nil {
		return err
	}
	flags, data := mountOptions(p.d.source.options)
	err = p.m.host.Mount(Mount{Source: p.device(), Target: canonical(p.d.target), Type: kind, Flags: flags, Data: data})
	if err == nil {
		return nil
	}
	hint := ""
	switch {
	case errors.Is(err, unix.EINVAL):
		hint = " (the filesystem is damaged or does not know one of the mount options; the kernel's log says more)"
	case errors.Is(err, unix.ENODEV):
		hint = " (the host's kernel does not have that filesystem)"
	}
	return failure(virterr.SystemError, "cannot mount '%s' of type %s at '%s': %w%s", p.device(), kind, p.d.target, virterr.Strerror(err), hint)
}

// fileSystem returns what mount(2) shall take the device for.
func (p *fsPool) fileSystem(dev *device) (string, error) {
	if kind := fileSystems[p.d.source.format]; kind != "" {
		return kind, nil
	}
	r, err := dev.look()
	if err != nil {
		return "", err
	}
	if kind, ok := r.FileSystem(); ok {
		return kind, nil
	}
	if len(r.Found) == 0 {
		return "", failure(virterr.OperationInvalid, "device '%s' has no filesystem that is known; make one with pool-build, or name its <format>", p.device())
	}
	return "", failure(virterr.OperationInvalid, "device '%s' carries %s, which is not one filesystem; name the <format> of the one to mount", p.device(), r)
}

// stillMounted fails when somebody else has unmounted a started pool: what its directory shows then is on another file system.
func (p *fsPool) stillMounted() error {
	mounted, err := p.mounted()
	if err == nil && !mounted {
		err = failure(virterr.OperationInvalid, "'%s' of storage pool '%s' is not mounted at '%s' any more; destroy the pool and start it again",
			p.device(), p.d.name, p.d.target)
	}
	return err
}

func (p *fsPool) refresh(ctx context.Context) error {
	if err := p.stillMounted(); err != nil {
		return err
	}
	return p.dirPool.refresh(ctx)
}

func (p *fsPool) create(ctx context.Context, v Volume, r *request, fill func(*os.File) error) error {
	if err := p.stillMounted(); err != nil {
		return err
	}
	return p.dirPool.create(ctx, v, r, fill)
}

func (p *fsPool) running(ctx context.Context) (bool, error) {
	mounted, err := p.mounted()
	if err != nil || !mounted {
		return false, err
	}
	return p.dirPool.running(ctx)
}

func (p *fsPool) stop(context.Context) error {
	mounted, err := p.mounted()
	if err != nil || !mounted {
		return err
	}
	err = p.m.host.Unmount(p.d.target)
	if errors.Is(err, unix.EBUSY) {
		return failure(virterr.OperationInvalid, "cannot unmount '%s': something on the host has files in it open (fuser -vm %s lists who)", p.d.target, p.d.target)
	}
	if err != nil {
		return failure(virterr.SystemError, "cannot unmount '%s': %w", p.d.target, virterr.Strerror(err))
	}
	return nil
}

// delete removes the directory, if it is empty and nothing is mounted there. The file system stays on its device.
func (p *fsPool) delete(ctx context.Context) error {
	if mounted, err := p.mounted(); err != nil || mounted {
		if err == nil {
			err = failure(virterr.OperationInvalid, "'%s' is mounted at '%s'; start and destroy the pool first", p.device(), strings.TrimSuffix(p.d.target, "/"))
		}
		return err
	}
	return p.dirPool.delete(ctx)
}
