package store

import (
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"

	"virtd/virterr"
)

// Changes move from the journal to the files of definitions settleDelay after the first of them, or at once when they take
// settleSize bytes, each in blocks of its own. With maxBacklog bytes, further changes wait. What moves competes with changes for
// the disk, so the few hundred definitions that a client makes in one go shall fit in the journal; they are in memory until they
// moved.
const (
	settleDelay = 2 * time.Second
	settleRetry = 30 * time.Second // after a failure
	settleSize  = 3 << 20
	busyChanges = 3         // with as many in a journal the store is busy
	restSize    = 768 << 10 // after as much a rest is worth its while
	maxBacklog  = 12 << 20
	maxRoom     = 4 << 20 // bytes of a prepared journal
	fileWriters = 8       // at once
	fileBatch   = 64      // files that are open at once
)

// schedule sees to it that what is in the journal is moved on. The caller holds mu.
func (d *Dir) schedule() {
	if !d.settles || d.closed || len(d.pending) == 0 {
		return
	}
	after := d.settleAfter
	if d.backlog >= settleSize && after == settleDelay {
		after = 0
	}
	switch {
	case d.timer == nil:
		d.work.Add(1)
		d.timer = time.AfterFunc(after, d.settleLater)
	case after == 0 && d.timer.Stop():
		d.timer.Reset(0)
	}
}

// settleLater runs when the timer says so.
func (d *Dir) settleLater() {
	defer d.work.Done()
	d.mu.Lock()
	d.timer = nil
	d.mu.Unlock()
	err := d.settle()
	if err == nil {
		d.prepare()
		d.giveBack()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settleAfter = settleDelay
	if err != nil {
		d.settleAfter = settleRetry
		d.log.Error("cannot move definitions from the journal to files of their own; they stay in the journal", "err", err)
	}
	d.schedule()
}

// setBusy calls Options.Busy. The caller holds mu.
func (d *Dir) setBusy(busy bool) {
	if d.isBusy == busy {
		return
	}
	d.isBusy = busy
	if d.busy != nil {
		d.busy(busy)
	}
}

// giveBack ends what Options.Busy began, and calls Options.Rest when there is a reason to.
func (d *Dir) giveBack() {
	d.mu.Lock()
	much := d.moved >= restSize
	due := len(d.pending) == 0 && (d.isBusy || much)
	if due {
		d.setBusy(false)
	}
	if due && much {
		d.moved = 0
	}
	d.mu.Unlock()
	if due && d.rest != nil {
		d.rest(much)
	}
}

// makeRoom moves changes on when there are too many to take another.
func (d *Dir) makeRoom() error {
	d.mu.RLock()
	full := d.backlog >= maxBacklog
	d.mu.RUnlock()
	if !full {
		return nil
	}
	return d.settle()
}

// settle moves all changes from the journal to the files of definitions. When it fails, what was not moved stays in the
// journal.
func (d *Dir) settle() error {
	d.settling.Lock()
	defer d.settling.Unlock()
	moving, journals, bytes := d.takePending()
	if len(journals) == 0 {
		return nil
	}
	err := d.writeAll(moving)
	d.mu.Lock()
	if err != nil { // what came meanwhile is newer
		maps.Copy(moving, d.pending)
		d.pending = moving
		d.backlog += bytes
	} else {
		d.moved += bytes
	}
	d.moving = nil
	d.mu.Unlock()
	if err == nil {
		journals, err = d.removeJournals(journals)
	}
	d.commitMu.Lock()
	defer d.commitMu.Unlock()
	d.journals = append(journals, d.journals...)
	return err
}

// takePending takes what is to be moved, the journals that hold it, and their size. The next change begins another journal.
func (d *Dir) takePending() (moving map[uuid.UUID]change, journals []string, bytes int) {
	d.commitMu.Lock()
	defer d.commitMu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.journals) == 0 {
		return nil, nil, 0
	}
	moving, journals, bytes = d.pending, d.journals, d.backlog
	d.moving, d.pending, d.journals, d.backlog = moving, map[uuid.UUID]change{}, nil, 0
	if d.journal != nil {
		d.nextRoom = min(1<<bits.Len(uint(d.journal.end)), maxRoom)
		_ = d.journal.file.Close()
		d.journal = nil
	}
	return moving, journals, bytes
}

// prepare makes the next journal while nobody waits for it: its name, its zeros and where they are cost the file system
// several times what a record costs. It has room for as much as the last one took. When it fails, the change that
// needs a journal tries again, and says why.
func (d *Dir) prepare() {
	d.commitMu.Lock()
	if d.spare != nil {
		d.commitMu.Unlock()
		return
	}
	d.lastJournal++
	number, room := d.lastJournal, max(d.firstRoom, d.nextRoom)
	d.commitMu.Unlock()
	j, err := d.createJournal(number, room)
	if err != nil {
		return
	}
	if err = j.file.Sync(); err == nil {
		j.goDirect(d.fs)
	}
	d.commitMu.Lock()
	if err == nil && d.lastJournal == number {
		d.spare, j = j, nil
	}
	d.commitMu.Unlock()
	if j != nil { // useless: a journal with a higher number holds older changes
		j.discard(d.fs)
	}
}

// dropSpare removes the journal that was prepared.
func (d *Dir) dropSpare() {
	d.commitMu.Lock()
	defer d.commitMu.Unlock()
	if d.spare != nil {
		d.spare.discard(d.fs)
		d.spare = nil
	}
}

// removeJournals removes journals whose changes are in files, the oldest first, and returns those that are left: a journal
// must not outlast one that changed the same definitions later. A damaged one is kept, under a name that nobody reads.
func (d *Dir) removeJournals(paths []string) (left []string, err error) {
	for i, path := range paths {
		if d.damaged[path] {
			err = d.fs.Rename(path, path+damagedExt)
		} else {
			err = d.fs.Remove(path)
		}
		if err == nil && i < len(paths)-1 {
			err = d.fs.SyncDir(d.state)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return paths[i:], virterr.New(virterr.SystemError, "cannot remove '%s': %w", path, err)
		}
	}
	return nil, nil
}

// readJournals takes over what an earlier process left in journals.
func (d *Dir) readJournals(names []string) {
	for _, name := range names { // the names of damaged ones are not taken again
		if n, ok := journalNumber(strings.TrimSuffix(name, damagedExt)); ok {
			d.lastJournal = max(d.lastJournal, n)
		}
	}
	for _, n := range journalsIn(names) {
		path := d.journalPath(n)
		data, err := d.fs.ReadFile(path, maxRead)
		if err == nil {
			var changes []change
			changes, err = readRecords(data)
			if len(data) > maxRead {
				err = errors.Join(err, fmt.Errorf("it has more than the %d bytes that are read", maxRead))
			}
			for _, c := range changes {
				d.pending[c.id] = c
				d.backlog += c.room()
			}
		}
		if err != nil {
			d.problems = append(d.problems, Problem{path, fmt.Errorf("%w; it is kept as '%s'", err, path+damagedExt)})
			d.damaged[path] = true
		}
		d.journals = append(d.journals, path)
	}
}

// Close implements Store. It moves what is left in the journal to files.
func (d *Dir) Close() error {
	d.mu.Lock()
	d.closed = true
	if d.timer != nil && d.timer.Stop() {
		d.work.Done()
	}
	d.mu.Unlock()
	d.work.Wait()
	d.dropSpare()
	return d.settle()
}
