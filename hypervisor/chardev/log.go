package chardev

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// logFiles keeps what the guest wrote in one file, or in two that take turns: when the current one is full the other is
// emptied and becomes current, so that at least max and at most twice max bytes are kept.
type logFiles struct {
	fds  []int
	cur  int
	max  int64
	size int64
}

func newLogFiles(fds []int, max int64) (*logFiles, error) {
	if len(fds) > 2 {
		return nil, fmt.Errorf("console log in %d files: this engine uses at most two", len(fds))
	}
	l := &logFiles{fds: fds, max: max}
	if len(fds) == 0 {
		return l, nil
	}
	// Go on in the file that was written last.
	var newest int64
	for i, fd := range fds {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return nil, fmt.Errorf("console log: %w", err)
		}
		if t := st.Mtim.Nano(); st.Size > 0 && t >= newest {
			newest, l.cur, l.size = t, i, st.Size
		}
	}
	if _, err := unix.Seek(fds[l.cur], 0, unix.SEEK_END); err != nil && err != unix.ESPIPE {
		return nil, fmt.Errorf("console log: %w", err)
	}
	return l, nil
}

// write appends p. A disk that is full loses the log, not the guest.
func (l *logFiles) write(p []byte) {
	if len(l.fds) == 0 {
		return
	}
	for len(p) > 0 {
		chunk := p
		if l.max > 0 && len(l.fds) == 2 {
			if l.size >= l.max && !l.turn() {
				return
			}
			chunk = p[:min(int64(len(p)), l.max-l.size)]
		}
		n, err := unix.Write(l.fds[l.cur], chunk)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return
		}
		l.size += int64(n)
		p = p[n:]
	}
}

// turn empties the other file and makes it the current one.
func (l *logFiles) turn() bool {
	next := 1 - l.cur
	if unix.Ftruncate(l.fds[next], 0) != nil {
		return false
	}
	if _, err := unix.Seek(l.fds[next], 0, unix.SEEK_SET); err != nil {
		return false
	}
	l.cur, l.size = next, 0
	return true
}

func (l *logFiles) close() error {
	var first error
	for _, fd := range l.fds {
		if err := unix.Close(fd); err != nil && first == nil {
			first = err
		}
	}
	l.fds = nil
	return first
}
