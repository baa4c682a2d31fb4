package store

import (
	"errors"
	"path/filepath"
	"strconv"

	"virtd/virterr"
)

// batch is the changes that one write and one sync make durable. Whoever comes while a batch is written joins the next.
type batch struct {
	changes []change
	size    int      // of their record, in bytes
	apply   []func() // puts each change into the index
	done    bool     // guarded by Dir.commitMu, as is the rest once the batch is being written
	errs    []error
}

// commit makes a change durable and then calls apply, with Dir.mu held. Of those who wait here at once, the first writes
// for all. The error wraps errVisible when the change is there but a power cut may undo it; apply was called then, too.
func (d *Dir) commit(c change, apply func()) error {
	if d.waits != nil {
		d.waits()
	}
	if err := d.makeRoom(); err != nil {
		return err
	}
	d.mu.Lock()
	if d.next == nil || d.next.size+c.size() > maxBatch {
		d.next = &batch{size: recordHead}
	}
	b, i := d.next, len(d.next.changes)
	b.changes = append(b.changes, c)
	b.size += c.size()
	b.apply = append(b.apply, apply)
	d.mu.Unlock()

	d.commitMu.Lock()
	defer d.commitMu.Unlock()
	if b.done {
		return b.errs[i]
	}
	d.mu.Lock()
	if d.next == b {
		d.next = nil
	}
	d.mu.Unlock()
	there, err := d.append(b)
	b.errs = make([]error, len(b.changes))
	b.done = true
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, c := range b.changes {
		switch {
		case !there:
			b.errs[i] = virterr.New(virterr.SystemError, "cannot write to the journal of '%s': %w", d.state, err)
			continue
		case err != nil:
			b.errs[i] = virterr.New(virterr.SystemError, "cannot sync the journal of '%s': %v: %w", d.state, err, errVisible)
		}
		d.pending[c.id] = c
		d.backlog += c.room()
		b.apply[i]()
	}
	if d.journal != nil && d.journal.changes >= busyChanges {
		d.setBusy(true)
	}
	d.schedule()
	return b.errs[i]
}

// maxBatch is the size of a record that no further change joins, in bytes.
const maxBatch = 16 << 20

// append writes a record and reports whether the next virtd would find it. The caller holds commitMu. After an error the
// file is left as it is, and the next change begins another.
func (d *Dir) append(b *batch) (there bool, err error) {
	size := blocks(b.size)
	if d.journal != nil && d.journal.end > 0 && d.journal.end+size > maxJournal {
		_ = d.journal.file.Close() // settle knows it
		d.journal = nil
	}
	if d.journal == nil {
		if err := d.newJournal(); err != nil {
			return false, err
		}
	}
	j := d.journal
	if len(d.record) < size {
		d.record = alignedBytes(size)
	}
	err = j.write(fillRecord(d.record[:size], b.changes))
	if len(d.record) > keepRecord {
		d.record = nil
	}
	if err == nil {
		j.changes += len(b.changes)
		return true, nil
	}
	d.journal = nil
	_ = j.file.Close()
	if data, err := d.fs.ReadFile(j.path, maxRead); err == nil {
		all, _ := readRecords(data)
		there = len(all) > j.changes
	}
	return there, err
}

// keepRecord is the largest buffer for records that is kept, in bytes.
const keepRecord = 64 << 10

// fillRecord makes b the record of changes, with zeros behind it.
func fillRecord(b []byte, changes []change) []byte {
	record := appendRecord(b[:0], changes...)
	clear(b[len(record):])
	return b
}

// journal is the file that records are written to.
type journal struct {
	path    string
	file    file
	changes int // that are whole and synced
	end     int // of the blocks with the last record
	room    int // bytes of the file
}

func (d *Dir) journalPath(n uint64) string {
	return filepath.Join(d.state, journalPrefix+strconv.FormatUint(n, 10))
}

// newJournal begins a file: the one that prepare made, or another.
func (d *Dir) newJournal() error {
	j := d.spare
	d.spare = nil
	if j == nil {
		d.lastJournal++
		var err error
		if j, err = d.createJournal(d.lastJournal, d.firstRoom); err != nil {
			return err
		}
	}
	d.journal = j
	d.journals = append(d.journals, j.path)
	return nil
}

// createJournal makes a file with room for records. It is in the directory for good before anything is promised that is in
// it.
func (d *Dir) createJournal(number uint64, room int) (*journal, error) {
	j := &journal{path: d.journalPath(number)}
	var err error
	if j.file, err = d.fs.Create(j.path, 0o600); err != nil {
		return nil, err
	}
	if err = j.makeRoom(room); err == nil { // durable with the first record, unless prepare sees to it
		err = d.fs.SyncDir(d.state)
	}
	if err != nil {
		return nil, errors.Join(err, j.file.Close(), d.fs.Remove(j.path))
	}
	return j, nil
}

// goDirect has the file written past the kernel's cache, where the file system has that: a sync then is a write that waits for
// the disk, and not also the cache's work. What is in the file so far must be durable, and no record.
func (j *journal) goDirect(fs filesystem) {
	direct, err := fs.Direct(j.path)
	if err != nil {
		return
	}
	if _, err := direct.WriteAt(alignedBytes(blockSize), 0); err != nil { // whether it takes such blocks
		_ = direct.Close()
		return
	}
	_ = j.file.Close()
	j.file = direct
}

// write makes the blocks of a record durable.
func (j *journal) write(record []byte) error {
	if need := j.end + len(record); need > j.room {
		if err := j.makeRoom(max(need, 2*j.room)); err != nil {
			return err
		}
	}
	if _, err := j.file.WriteAt(record, int64(j.end)); err != nil {
		return err
	}
	j.end += len(record)
	return j.file.Sync()
}

// discard removes a journal that holds nothing. One that cannot be removed holds nothing for the next Open either.
func (j *journal) discard(fs filesystem) {
	_ = j.file.Close()
	_ = fs.Remove(j.path)
}

// makeRoom writes zeros behind what is there, up to a size.
func (j *journal) makeRoom(size int) error {
	for j.room < size {
		n := min(size-j.room, len(zeros))
		if _, err := j.file.WriteAt(zeros[:n], int64(j.room)); err != nil {
			return err
		}
		j.room += n
	}
	return nil
}

// zeros are as aligned as records are. Nobody writes to them, so that they take no memory.
var zeros = aligned(zeroMemory[:])

var zeroMemory [firstRoom + blockSize]byte
