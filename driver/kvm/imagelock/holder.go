package imagelock

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Holder is a process that holds locks of this package on an image.
type Holder struct {
	PID  int
	Name string // /proc/PID/comm
}

// Holders returns the processes that hold the byte of a Conflict, as far as this process may look. The kernel names no
// owner of such a lock; but each descriptor's fdinfo lists the locks of its open file.
func Holders(f *os.File, b int64) []Holder {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return nil
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []Holder
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if holds(pid, st.Ino, b) {
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			found = append(found, Holder{PID: pid, Name: strings.TrimSpace(string(comm))})
		}
	}
	return found
}

// holds tells whether one of the process's descriptors holds the byte on that inode. A descriptor is looked into when it
// points to the inode, which is cheap to see, or when that cannot be seen.
func holds(pid int, inode uint64, b int64) bool {
	dir := fmt.Sprintf("/proc/%d/fdinfo", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		var st unix.Stat_t
		if unix.Stat(fmt.Sprintf("/proc/%d/fd/%s", pid, e.Name()), &st) == nil && st.Ino != inode {
			continue
		}
		info, err := os.Open(dir + "/" + e.Name())
		if err != nil {
			continue
		}
		hit := false
		for lines := bufio.NewScanner(info); lines.Scan() && !hit; {
			hit = lockLine(lines.Text(), inode, b)
		}
		info.Close()
		if hit {
			return true
		}
	}
	return false
}

// lockLine tells whether a line of fdinfo is an OFD lock on that inode that covers the byte:
//
//	lock:	1: OFDLCK ADVISORY  READ -1 08:01:1234 100 101
func lockLine(line string, inode uint64, b int64) bool {
	f := strings.Fields(line)
	if len(f) != 9 || f[0] != "lock:" || f[2] != "OFDLCK" {
		return false
	}
	device := strings.Split(f[6], ":")
	first, err := strconv.ParseInt(f[7], 10, 64)
	if err != nil || device[len(device)-1] != strconv.FormatUint(inode, 10) || b < first {
		return false
	}
	last, err := strconv.ParseInt(f[8], 10, 64)
	return f[8] == "EOF" || err == nil && b <= last
}
