package store

import (
	"maps"
	"slices"
	"sync"

	"github.com/google/uuid"
)

// writeAll makes the files of definitions what the changes say, for good. All are written before the first is synced, and
// all are synced before the first gets its name: the file system then puts many of them into one transaction of its own.
func (d *Dir) writeAll(changes map[uuid.UUID]change) error {
	for some := range slices.Chunk(slices.Collect(maps.Values(changes)), fileBatch) {
		if err := d.writeSome(some); err != nil {
			return err
		}
	}
	return d.syncDir(d.state)
}

// writeSome does so for some, whose names are not durable yet.
func (d *Dir) writeSome(changes []change) (err error) {
	files := make([]*replacement, len(changes)) // nil: the file goes away
	defer func() {
		for _, f := range files {
			f.abandon()
		}
	}()
	for i, c := range changes {
		if c.text == "" {
			continue
		}
		if files[i], err = d.newReplacement(d.definitionPath(c.id), c.text); err != nil {
			return err
		}
		files[i].file.WriteBack()
	}
	if err := d.syncFiles(files); err != nil {
		return err
	}
	for i, c := range changes {
		if c.text == "" {
			err = d.remove(d.definitionPath(c.id))
		} else {
			err = files[i].finish()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// syncFiles syncs several at once, so that they share flushes of the disk.
func (d *Dir) syncFiles(files []*replacement) error {
	var writers sync.WaitGroup
	errs := make([]error, d.writers)
	for w := range errs {
		writers.Go(func() {
			for i := w; i < len(files) && errs[w] == nil; i += d.writers {
				if files[i] != nil {
					errs[w] = files[i].sync()
				}
			}
		})
	}
	writers.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
