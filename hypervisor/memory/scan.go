package memory

import "bytes"

// RunPages is the most pages that Scan passes on at a time.
const RunPages = 256

var zeroPage [PageSize]byte

// Scan calls f for every run of pages that are not all zero, in address order, with a copy of at most RunPages pages that
// is valid until f returns. seen, which may be nil, is told how many bytes were looked at, f's included. An error of
// either ends the scan. Pages that the guest writes meanwhile may or may not show.
func (m *Memory) Scan(f func(gpa uint64, data []byte) error, seen func(n uint64) error) error {
	buf := make([]byte, RunPages*PageSize)
	for i := range m.regions {
		r := &m.regions[i]
		for off := uint64(0); off < r.Size; off += uint64(len(buf)) {
			part := r.Host[off:min(off+uint64(len(buf)), r.Size)]
			if err := scanPart(r.GPA+off, part, buf, f); err != nil {
				return err
			}
			if seen == nil {
				continue
			}
			if err := seen(uint64(len(part))); err != nil {
				return err
			}
		}
	}
	return nil
}

// scanPart passes the runs of one part on.
func scanPart(gpa uint64, part, buf []byte, f func(uint64, []byte) error) error {
	isZero := func(at int) bool { return bytes.Equal(part[at:at+PageSize], zeroPage[:]) }
	for start := 0; start < len(part); {
		if isZero(start) {
			start += PageSize
			continue
		}
		end := start + PageSize
		for end < len(part) && !isZero(end) {
			end += PageSize
		}
		n := copy(buf, part[start:end])
		if err := f(gpa+uint64(start), buf[:n]); err != nil {
			return err
		}
		start = end
	}
	return nil
}
