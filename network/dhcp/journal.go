package dhcp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"os"
	"strconv"
	"time"
)

// Journal keeps leases in two files that are written in turn. A file begins with a snapshot and goes on with changes, each
// line with a checksum; when changes have outgrown the snapshot a new one is begun in the other file. No instant of a kill or
// power cut loses a change that Sync has made durable: what follows the last whole line is ignored, and a file whose snapshot
// is not whole is not used. The process that writes it needs no directory, only the two descriptors.
type Journal struct {
	files  [2]*os.File
	active int
	gen    uint64
	size   int64 // of the active file
	base   int64 // of its snapshot
	buf    bytes.Buffer
	leases map[netip.Addr]Lease
	err    error
}

// line is one record of a file.
type line struct {
	Gen   uint64      `json:"gen,omitempty"`   // begins a snapshot
	Ready bool        `json:"ready,omitempty"` // ends it
	Lease *Lease      `json:"lease,omitempty"`
	Gone  *netip.Addr `json:"gone,omitempty"`
}

// Bounds of a file, in bytes: compaction begins when it is larger than the first and than twice its snapshot; more than the
// second is never read.
const (
	compactAbove = 256 << 10
	maxJournal   = 64 << 20
)

// OpenJournal reads the leases of two files, which it takes over. Empty files are a network without leases.
func OpenJournal(files [2]*os.File) (*Journal, error) {
	j := &Journal{files: files, leases: map[netip.Addr]Lease{}}
	for i, f := range files {
		gen, leases, size, err := readJournal(f)
		if err != nil {
			return nil, fmt.Errorf("read the leases in %s: %w", f.Name(), err)
		}
		if gen > j.gen {
			j.gen, j.leases, j.active, j.size, j.base = gen, leases, i, size, size
		}
	}
	if j.gen == 0 {
		j.active = 1
		j.compact()
	} else if err := files[j.active].Truncate(j.size); err != nil { // the torn end of a write
		return nil, fmt.Errorf("repair the leases in %s: %w", files[j.active].Name(), err)
	}
	return j, j.Sync()
}

// ReadLeases returns the leases in files that nobody writes now.
func ReadLeases(files [2]*os.File) ([]Lease, error) {
	var newest uint64
	var out []Lease
	for _, f := range files {
		gen, leases, _, err := readJournal(f)
		if err != nil {
			return nil, err
		}
		if gen > newest {
			newest, out = gen, nil
			for _, l := range leases {
				out = append(out, l)
			}
		}
	}
	return out, nil
}

// readJournal returns generation 0 for a file without a whole snapshot.
func readJournal(f *os.File) (gen uint64, leases map[netip.Addr]Lease, size int64, err error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, nil, 0, err
	}
	leases = map[netip.Addr]Lease{}
	ready := false
	in := bufio.NewReader(io.LimitReader(f, maxJournal))
	for {
		text, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, nil, 0, err
		}
		l, ok := decode(text)
		if !ok || (size == 0) != (l.Gen != 0) {
			break
		}
		size += int64(len(text))
		switch {
		case l.Gen != 0:
			gen = l.Gen
		case l.Ready:
			ready = true
		case l.Lease != nil:
			leases[l.Lease.IP] = *l.Lease
		case l.Gone != nil:
			delete(leases, *l.Gone)
		}
	}
	if !ready {
		return 0, nil, 0, nil
	}
	return gen, leases, size, nil
}

func decode(text []byte) (l line, ok bool) {
	sum, rest, found := bytes.Cut(text, []byte(" "))
	want, err := strconv.ParseUint(string(sum), 16, 32)
	if !found || err != nil || crc32.ChecksumIEEE(rest) != uint32(want) || json.Unmarshal(rest, &l) != nil {
		return l, false
	}
	if l.Lease != nil && !l.Lease.IP.IsValid() {
		return l, false
	}
	return l, true
}

func (j *Journal) append(l line) {
	text, err := json.Marshal(l)
	if err != nil {
		j.err = errors.Join(j.err, err)
		return
	}
	text = append(text, '\n')
	fmt.Fprintf(&j.buf, "%08x %s", crc32.ChecksumIEEE(text), text)
}

// Leases returns what the journal holds.
func (j *Journal) Leases() []Lease {
	out := make([]Lease, 0, len(j.leases))
	for _, l := range j.leases {
		out = append(out, l)
	}
	return out
}

// Put and Remove note changes, which Sync makes durable.
func (j *Journal) Put(l Lease) {
	l.Expires = l.Expires.Round(time.Second)
	j.leases[l.IP] = l
	j.append(line{Lease: &l})
}

// Remove notes that nobody has an address any more.
func (j *Journal) Remove(ip netip.Addr) {
	delete(j.leases, ip)
	j.append(line{Gone: &ip})
}

// Pending reports whether there are changes that Sync would write.
func (j *Journal) Pending() bool { return j.buf.Len() > 0 }

// Sync writes what was noted and returns when it would survive a power cut. After an error the next Sync begins a new file:
// nobody knows what the old one holds.
func (j *Journal) Sync() error {
	if j.buf.Len() == 0 && j.err == nil {
		return nil
	}
	if j.err != nil || j.size+int64(j.buf.Len()) > max(compactAbove, 2*j.base) {
		if j.compact(); j.err != nil {
			return fmt.Errorf("empty %s: %w", j.files[j.active].Name(), j.err)
		}
	}
	f := j.files[j.active]
	n := int64(j.buf.Len())
	_, err := f.WriteAt(j.buf.Bytes(), j.size)
	if err == nil {
		err = f.Sync()
	}
	j.buf.Reset()
	j.err = err
	if err != nil {
		return fmt.Errorf("write the leases to %s: %w", f.Name(), err)
	}
	j.size += n
	return nil
}

// compact puts a snapshot into the other file. It is written by the Sync that follows.
func (j *Journal) compact() {
	j.active = 1 - j.active
	j.gen++
	j.buf.Reset()
	j.err = j.files[j.active].Truncate(0)
	j.append(line{Gen: j.gen})
	for _, l := range j.leases {
		j.append(line{Lease: &l})
	}
	j.append(line{Ready: true})
	j.size, j.base = 0, int64(j.buf.Len())
}
