package storage

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// ResizeFlags say how a size is meant (virStorageVolResizeFlags).
type ResizeFlags uint32

// The flags of Resize.
const (
	ResizeAllocate ResizeFlags = 1 // reserve the space
	ResizeDelta    ResizeFlags = 2 // the size is a difference
	ResizeShrink   ResizeFlags = 4 // losing data is meant
)

// Resize changes a volume's capacity; a qcow2 one's can only grow. A logical volume can grow while a domain has it, which sees
// that when its disk is told to (blockresize). With ResizeShrink and ResizeDelta the size is taken away.
func (v Volume) Resize(ctx context.Context, size uint64, flags ResizeFlags) error {
	if extra := flags &^ (ResizeAllocate | ResizeDelta | ResizeShrink); extra != 0 {
		return failure(virterr.InvalidArg, "unsupported flags (0x%x) in function virStorageVolResize", uint32(extra))
	}
	take := v.claim
	if v.block() {
		take = v.hold
	}
	release, err := take()
	if err != nil {
		return err
	}
	defer release()
	im, err := v.inspect()
	if err != nil {
		return err
	}
	if flags&ResizeDelta != 0 {
		size = add(im.capacity, size, flags&ResizeShrink != 0)
	}
	if size < im.capacity && flags&ResizeShrink == 0 {
		return failure(virterr.InvalidArg, "Can't shrink capacity below current capacity unless shrink flag explicitly specified")
	}
	if size < im.capacity {
		if err := v.unused(); err != nil {
			return err
		}
	}
	if size > im.capacity {
		if info, err := v.pool.Info(); err != nil {
			return err
		} else if size-im.capacity > info.Available {
			return failure(virterr.OperationFailed, "Not enough space left in storage pool")
		}
	}
	if im.format == formatQcow2 {
		return v.resizeQcow2(size, flags)
	}
	return v.backend.resize(ctx, v, size, flags&ResizeAllocate != 0)
}

// add is a difference applied: not below 0, and not beyond what a number can hold.
func add(to, size uint64, negative bool) uint64 {
	switch {
	case negative:
		return to - min(to, size)
	case to+size < to:
		return 1<<64 - 1
	}
	return to + size
}

// taken is how much a file takes up.
func taken(f *os.File) uint64 {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0
	}
	return uint64(st.Blocks) * 512
}

// Delete removes the volume and its data; of a link, the link.
func (v Volume) Delete(ctx context.Context) error {
	release, err := v.claim()
	if err != nil {
		return err
	}
	defer release()
	if !v.exists() {
		return noVolume(v.Name)
	}
	return v.backend.remove(ctx, v)
}

// Wipe overwrites with zeros all that the volume takes up. What the disk below keeps of it is not in its power.
func (v Volume) Wipe(ctx context.Context) error {
	release, err := v.claim()
	if err != nil {
		return err
	}
	defer release()
	if !v.exists() {
		return noVolume(v.Name)
	}
	f, err := openData(v.node(), os.O_RDWR)
	if err != nil {
		return failure(virterr.SystemError, "cannot open '%s': %w", v.Path, virterr.Strerror(err))
	}
	defer f.Close()
	err = extents(f, func(from, to int64) error { return zero(ctx, f, from, to) })
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return failure(virterr.SystemError, "cannot wipe '%s': %w", v.Path, virterr.Strerror(err))
	}
	return nil
}
