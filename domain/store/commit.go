package store

import (
	"errors"

	"virtd/virterr"
)

// batch is the changes that one write and one sync make durable. Whoever comes while a batch is written joins the next.
type batch struct {
	changes []change
	apply   []func() // puts each change into the index
	done    bool     // guarded by Dir.commitMu, as is the rest once the batch is being written
	errs    []error
}

// commit makes a change durable and then calls apply, with Dir.mu held. Of those who wait here at once, the first writes
// for all. The error wraps errVisible when the change is there but a power cut may undo it; apply was called then, too.
func (d *Dir) commit(c change, apply func()) error {
	if err := d.makeRoom(); err != nil {
		return err
	}
	d.mu.Lock()
	if d.next == nil {
		d.next = &batch{}
	}
	b, i := d.next, len(d.next.changes)
	b.changes = append(b.changes, c)
	b.apply = append(b.apply, apply)
	d.mu.Unlock()

	d.commitMu.Lock()
	defer d.commitMu.Unlock()
	if b.done {
		return b.errs[i]
	}
	d.mu.Lock()
	d.next = nil
	d.mu.Unlock()
	there, err := d.append(b.changes)
	b.errs = make([]error, len(b.changes))
	b.done = true
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, c := range b.changes {
		switch {
		case i >= there:
			b.errs[i] = virterr.New(virterr.SystemError, "cannot write to the journal of '%s': %w", d.state, err)
			continue
		case err != nil:
			b.errs[i] = virterr.New(virterr.SystemError, "cannot sync the journal of '%s': %v: %w", d.state, err, errVisible)
		}
		d.pending[c.id] = c
		d.backlog += c.size()
		b.apply[i]()
	}
	d.schedule()
	return b.errs[i]
}

// append writes records and returns how many of them the next virtd would find. The caller holds commitMu. After an error
// the file is left as it is, and the next change begins another.
func (d *Dir) append(changes []change) (there int, err error) {
	if d.journal == nil {
		if err := d.newJournal(); err != nil {
			return 0, err
		}
	}
	d.record = d.record[:0]
	for _, c := range changes {
		d.record = appendRecord(d.record, c)
	}
	j := d.journal
	if _, err = j.file.Write(d.record); err == nil {
		err = j.file.Sync()
	}
	if cap(d.record) > keepRecord {
		d.record = nil
	}
	if err == nil {
		j.records += len(changes)
		return len(changes), nil
	}
	d.journal = nil
	_ = j.file.Close()
	if data, err := d.fs.ReadFile(j.path, maxJournal); err == nil {
		if all, _ := readRecords(data); len(all) > j.records {
			there = min(len(all)-j.records, len(changes))
		}
	}
	return there, err
}

// keepRecord is the largest buffer for records that is kept, in bytes.
const keepRecord = 64 << 10

// journal is the file that changes are appended to.
type journal struct {
	path    string
	file    file
	records int // that are whole and synced
}

// newJournal begins a file. It is in the directory for good before anything is promised that is in it.
func (d *Dir) newJournal() error {
	d.lastJournal++
	path := d.journalPath(d.lastJournal)
	f, err := d.fs.Create(path, 0o600)
	if err != nil {
		return err
	}
	if err := d.fs.SyncDir(d.state); err != nil {
		return errors.Join(err, f.Close(), d.fs.Remove(path))
	}
	d.journal = &journal{path: path, file: f}
	d.journals = append(d.journals, path)
	return nil
}
