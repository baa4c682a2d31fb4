package storage

import (
	"context"
	"os"
)

// BuildFlags say what building may destroy (virStoragePoolBuildFlags).
type BuildFlags uint32

// The flags of Build. They exclude each other.
const (
	BuildKeep    BuildFlags = 1 << 2 // VIR_STORAGE_POOL_BUILD_NO_OVERWRITE: fail where there is something
	BuildDestroy BuildFlags = 1 << 3 // VIR_STORAGE_POOL_BUILD_OVERWRITE
)

// backend is what the types of pools differ in. It belongs to one definition. Its methods are called without the manager's
// lock; those about the pool as a whole one at a time. A ctx ends with the manager, or when a program has had its time.
type backend interface {
	// build makes what the pool is on. Nothing that is there already is destroyed but with BuildDestroy.
	build(ctx context.Context, flags BuildFlags) error
	// start makes the volumes available. It is no error when they are.
	start(ctx context.Context) error
	// running reports whether the host has the volumes available, for a pool that an earlier virtd started.
	running(ctx context.Context) (bool, error)
	// stop undoes start. It is no error when that was done already.
	stop(ctx context.Context) error
	// delete removes what the pool is on, if there is nothing on it.
	delete(ctx context.Context) error
	// refresh looks at everything anew.
	refresh(ctx context.Context) error
	// sizes and permissions are those of a started pool.
	sizes(ctx context.Context) (poolSizes, error)
	permissions() permissions

	// volumes lists the volumes, in no order; volume finds one by a name that can be one.
	volumes(ctx context.Context) ([]found, error)
	volume(ctx context.Context, name string) (found, bool)
	inspect(v Volume) (image, error)
	// create makes a volume as r says, has fill write its data, makes it durable and gives it its name last. A nil fill
	// makes zeros of it.
	create(ctx context.Context, v Volume, r *request, fill func(*os.File) error) error
	remove(ctx context.Context, v Volume) error
	// resize changes the size of a raw volume.
	resize(ctx context.Context, v Volume, size uint64, allocate bool) error
	// exclusive reports whether running domains that use volumes keep the pool from being stopped.
	exclusive() bool
}

// found is a volume as its pool has it.
type found struct{ name, path, key string }

// backend returns what does the work for a definition.
func (m *Manager) backend(d *definition) backend {
	dir := &dirPool{d: d}
	switch d.kind {
	case kindFS:
		return &fsPool{dirPool: dir, m: m}
	case kindLogical:
		return &logicalPool{d: d, m: m}
	}
	return dir
}
