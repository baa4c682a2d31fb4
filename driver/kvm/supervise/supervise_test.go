package supervise

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain is also the engine of these tests: with SUPERVISE_HELPER's argument it says who it is and waits.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "supervise-helper" {
		var lim unix.Rlimit
		for range 200 { // the limits come right after the start
			if unix.Getrlimit(unix.RLIMIT_CORE, &lim) == nil && lim.Cur == 0 {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		ifaces, _ := os.ReadFile("/proc/thread-self/net/dev")
		fmt.Printf("uid=%d pid=%d core=%d interfaces=%d\n", os.Getuid(), os.Getpid(), lim.Cur, strings.Count(string(ifaces), ":"))
		bufio.NewReader(os.Stdin).ReadString('\n')
		os.Exit(7)
	}
	os.Exit(m.Run())
}

// start starts the helper and returns what it says and the pipe that ends it.
func start(t *testing.T, change func(*Command)) (*Process, string, *os.File) {
	t.Helper()
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := Command{Path: os.Args[0], Args: []string{"supervise-helper"}, Files: []*os.File{inR, outW, os.Stderr}, UID: -1, GID: -1,
		Limits: []Limit{{unix.RLIMIT_CORE, 0}}}
	if change != nil {
		change(&c)
	}
	p, err := Start(c)
	inR.Close()
	outW.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.End(); inW.Close() })
	line, err := bufio.NewReader(outR).ReadString('\n')
	outR.Close()
	if err != nil {
		t.Fatal(err)
	}
	return p, line, inW
}

func TestEngineIsApart(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to give the engine a uid and namespaces")
	}
	dir := t.TempDir() // only root reaches the program
	exe, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(dir+"/engine", exe, 0o755), os.Chmod(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	p, line, _ := start(t, func(c *Command) {
		c.Path = dir + "/engine"
		c.UID, c.GID = 54321, 54321
		c.Namespaces = unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWPID
	})
	if line != "uid=54321 pid=1 core=0 interfaces=1\n" { // its own loopback and nothing else
		t.Error(line)
	}
	sid, err := unix.Getsid(p.PID)
	if err != nil || sid != p.PID {
		t.Errorf("session %d, pid %d: %v", sid, p.PID, err)
	}
	threads, err := HostThreads(p.PID)
	if err != nil || threads[1] != p.PID {
		t.Errorf("%v %v", threads, err)
	}
}

func TestProcessIsFoundAgain(t *testing.T) {
	p, _, in := start(t, nil)
	found, err := Find(p.PID, p.StartTime)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Find(p.PID, p.StartTime+1); !errors.Is(err, ErrGone) {
		t.Fatal("a process that started at another time was taken for it:", err)
	}
	found.Release()
	if found.Ended() || p.Ended() {
		t.Fatal("release ended it")
	}
	found, err = Find(p.PID, p.StartTime)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Release()
	fmt.Fprintln(in)
	for _, q := range []*Process{p, found} {
		select {
		case <-q.Done():
		case <-time.After(10 * time.Second):
			t.Fatal("its end was not noticed")
		}
		if !q.Ended() {
			t.Fatal("not ended")
		}
	}
	if p.ExitStatus() != "exit status 7" {
		t.Error(p.ExitStatus())
	}
	if err := p.Kill(); err != nil {
		t.Error("killing what has ended:", err)
	}
	if _, err := Find(p.PID, p.StartTime); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
}

func TestKill(t *testing.T) {
	p, _, _ := start(t, nil)
	if err := p.End(); err != nil {
		t.Fatal(err)
	}
	if p.ExitStatus() != "signal: killed" {
		t.Error(p.ExitStatus())
	}
}

func TestBirthInCgroup(t *testing.T) {
	c, err := OpenCgroups("virtd-supervise-test")
	if err != nil {
		t.Skip("needs a cgroup2 hierarchy it may write: ", err)
	}
	path, dir, err := c.New("one")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	p, _, _ := start(t, func(cmd *Command) { cmd.Cgroup = dir })
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.PID))
	if err != nil || !strings.Contains(string(text), "0::/virtd-supervise-test/one\n") {
		t.Errorf("%s %v", text, err)
	}
	if _, _, _, err := CgroupTime(path); err != nil {
		t.Error(err)
	}
	if err := p.End(); err != nil {
		t.Fatal(err)
	}
	if err := RemoveCgroup(path); err != nil {
		t.Fatal(err)
	}
	if err := RemoveCgroup(path); err != nil {
		t.Fatal("what is gone is no error:", err)
	}
	if _, err := os.Stat(c.parent); !errors.Is(err, os.ErrNotExist) {
		t.Error("the parent outlives the last engine:", err)
	}
}

func TestParseStat(t *testing.T) {
	const tail = " S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 5 0 4242 100 200 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 3 0 0 0 0 0"
	for text, want := range map[string]Stat{
		"12 (virtd-vmm)" + tail:    {'S', 1500 * time.Millisecond, 500 * time.Millisecond, 4242, 3},
		"12 (a) S 9 (b) 7)" + tail: {'S', 1500 * time.Millisecond, 500 * time.Millisecond, 4242, 3},
	} {
		if got, err := parseStat([]byte(text)); err != nil || got != want {
			t.Errorf("%q: %+v %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "12 (x", "12 (x) S 1", "12 (x)" + strings.Replace(tail, "4242", "x", 1)} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was understood", bad)
		}
	}
}

func TestCgroupRoot(t *testing.T) {
	file := t.TempDir() + "/mountinfo"
	text := "25 1 0:22 / /sys rw shared:7 - sysfs sysfs rw\n30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := cgroupRoot(file); err != nil || got != "/sys/fs/cgroup" {
		t.Error(got, err)
	}
	if err := os.WriteFile(file, []byte("25 1 0:22 / /sys rw - sysfs sysfs rw\n-\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := cgroupRoot(file); err == nil {
		t.Error("found one where there is none")
	}
}
