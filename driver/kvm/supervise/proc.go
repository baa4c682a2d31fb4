package supervise

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Stat is what the kernel tells about a process or thread in /proc/PID/stat (proc(5)).
type Stat struct {
	State        byte
	User, System time.Duration
	StartTime    uint64 // field 22, clock ticks since boot
	CPU          int    // field 39, where it ran last
}

// clockTick is the unit of times in /proc/PID/stat: USER_HZ is 100 on every Linux ABI.
const clockTick = time.Second / 100

// ReadStat reads the stat file of a process (pid alone) or of one of its threads.
func ReadStat(pid, tid int) (Stat, error) {
	path := fmt.Sprintf("/proc/%d/stat", pid)
	if tid != 0 {
		path = fmt.Sprintf("/proc/%d/task/%d/stat", pid, tid)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Stat{}, err
	}
	return parseStat(text)
}

var errStat = errors.New("the kernel's stat file has an unknown form")

// parseStat reads a stat file. The second field is the command in parentheses, which may hold anything.
func parseStat(text []byte) (Stat, error) {
	end := bytes.LastIndexByte(text, ')')
	if end < 0 {
		return Stat{}, errStat
	}
	f := strings.Fields(string(text[end+1:])) // f[0] is field 3
	if len(f) < 37 || len(f[0]) != 1 {
		return Stat{}, errStat
	}
	var s Stat
	s.State = f[0][0]
	user, err1 := strconv.ParseUint(f[11], 10, 63)
	system, err2 := strconv.ParseUint(f[12], 10, 63)
	start, err3 := strconv.ParseUint(f[19], 10, 64)
	cpu, err4 := strconv.Atoi(f[36])
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return Stat{}, errStat
	}
	s.User, s.System = time.Duration(user)*clockTick, time.Duration(system)*clockTick
	s.StartTime, s.CPU = start, cpu
	return s, nil
}

// ThreadTime returns the processor time of a thread in nanosecond precision, guest time included.
func ThreadTime(pid, tid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/schedstat", pid, tid))
	if err == nil {
		if f := strings.Fields(string(text)); len(f) > 0 {
			if ns, err := strconv.ParseInt(f[0], 10, 64); err == nil {
				return time.Duration(ns), nil
			}
		}
	}
	s, err := ReadStat(pid, tid) // a kernel without schedstats
	return s.User + s.System, err
}

// RSS returns the resident memory of a process in bytes.
func RSS(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(text))
	if len(f) < 2 {
		return 0, errStat
	}
	pages, err := strconv.ParseUint(f[1], 10, 52)
	return pages * uint64(os.Getpagesize()), err
}

// HostThreads maps the thread ids that a process in a PID namespace of its own knows to the host's.
func HostThreads(pid int) (map[int]int, error) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, err
	}
	inner := make(map[int]int, len(tasks))
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/status", pid, tid))
		if err != nil {
			continue // it has ended
		}
		inner[innermost(string(status), tid)] = tid
	}
	return inner, nil
}

// innermost returns the last number of the NSpid line: the id in the process's own namespace.
func innermost(status string, tid int) int {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				if id, err := strconv.Atoi(f[len(f)-1]); err == nil {
					return id
				}
			}
		}
	}
	return tid
}
