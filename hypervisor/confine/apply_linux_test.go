package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain runs the confined half of the tests in a child, because confinement cannot be undone.
func TestMain(m *testing.M) {
	if act := os.Getenv("CONFINE_TEST_ACT"); act != "" {
		os.Exit(confined(act))
	}
	os.Exit(m.Run())
}

// attempts are what a confined engine must not be able to do. Each returns nil when it succeeded.
var attempts = map[string]func(dir string) error{
	"open a file to read":    func(dir string) error { _, err := os.Open("/etc/hostname"); return err },
	"create a file":          func(dir string) error { return os.WriteFile(filepath.Join(dir, "made"), nil, 0o600) },
	"remove a file":          func(dir string) error { return os.Remove(filepath.Join(dir, "victim")) },
	"list a directory":       func(dir string) error { _, err := os.ReadDir("/"); return err },
	"make a TCP socket":      func(string) error { _, err := net.Listen("tcp", "127.0.0.1:0"); return err },
	"make a unix socket":     func(string) error { _, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err },
	"make a netlink socket":  func(string) error { _, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, 0); return err },
	"mount":                  func(dir string) error { return unix.Mount("none", dir, "tmpfs", 0, "") },
	"leave for a namespace":  func(string) error { return unix.Unshare(unix.CLONE_NEWUSER) },
	"change uid":             func(string) error { return unix.Setresuid(1, 1, 1) },
	"signal its parent":      func(string) error { return unix.Kill(os.Getppid(), 0) },
	"tgkill another process": func(string) error { return unix.Tgkill(os.Getppid(), os.Getppid(), 0) },
	"map executable memory": func(string) error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
		return err
	},
	"set up an io_uring": func(string) error {
		var params [120]byte
		_, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(pointer(&params)), 0)
		return errnoErr(errno)
	},
	"push input to a terminal": func(string) error { return unix.IoctlSetInt(0, unix.TIOCSTI, 0) },
	"fork": func(string) error {
		pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if errno == 0 && pid == 0 {
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		return errnoErr(errno)
	},
	"take pages of the host's pool": func(string) error {
		_, err := unix.MemfdCreate("huge", unix.MFD_CLOEXEC|unix.MFD_HUGETLB)
		return err
	},
	"load a kernel module": func(string) error {
		_, _, errno := unix.Syscall(unix.SYS_FINIT_MODULE, 0, 0, 0)
		return errnoErr(errno)
	},
	"use bpf":         func(string) error { _, _, errno := unix.Syscall(unix.SYS_BPF, 0, 0, 0); return errnoErr(errno) },
	"use userfaultfd": func(string) error { _, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, 0, 0, 0); return errnoErr(errno) },
	"use perf_event_open": func(string) error {
		_, _, errno := unix.Syscall(unix.SYS_PERF_EVENT_OPEN, 0, 0, 0)
		return errnoErr(errno)
	},
	"change its own limit": func(string) error { return unix.Prlimit(0, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 10, Max: 10}, nil) },
}

func errnoErr(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// result is what the child found.
type result struct {
	Report  Report
	Allowed []string // attempts that succeeded
	Wrong   []string // attempts that failed for another reason than being refused
	Works   string   // why ordinary work failed, or ""
}

func confined(act string) int {
	dir := os.Getenv("CONFINE_TEST_DIR")
	held, err := os.OpenFile(filepath.Join(dir, "held"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	report, err := Apply(Options{Seccomp: true, Landlock: act != "seccomp"})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if act == "exec" {
		err := syscall.Exec("/bin/true", []string{"true"}, nil)
		fmt.Fprintln(os.Stderr, "exec returned", err)
		return 1
	}
	out := result{Report: report, Works: work(held)}
	for name, try := range attempts {
		switch err := try(dir); {
		case err == nil:
			out.Allowed = append(out.Allowed, name)
		case !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES):
			out.Wrong = append(out.Wrong, name+": "+err.Error())
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		return 1
	}
	return 0
}

// work does what an engine does while a machine runs: files it holds, new threads, allocation, timers.
func work(held *os.File) string {
	if _, err := held.WriteAt([]byte("x"), 100); err != nil {
		return err.Error()
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { _ = make([]byte, 4<<20) })
	}
	wg.Wait()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return err.Error()
	}
	unix.Close(fd)
	log, err := unix.MemfdCreate("dirty-log", unix.MFD_CLOEXEC) // for a vhost-user back end
	if err == nil {
		err = unix.Ftruncate(log, 4096)
	}
	if err != nil {
		return "shared memory: " + err.Error()
	}
	unix.Close(log)
	if err := unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGURG); err != nil {
		return "tgkill to itself: " + err.Error()
	}
	return ""
}

func runChild(t *testing.T, act string) ([]byte, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "victim"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CONFINE_TEST_ACT="+act, "CONFINE_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	return cmd.Output()
}

func TestConfinedEngineCannot(t *testing.T) {
	for _, act := range []string{"all", "seccomp"} {
		t.Run(act, func(t *testing.T) {
			data, err := runChild(t, act)
			if err != nil {
				t.Fatalf("child: %v", err)
			}
			var r result
			if err := json.Unmarshal(data, &r); err != nil {
				t.Fatalf("%v in %q", err, data)
			}
			t.Logf("report: %+v", r.Report)
			if !r.Report.Seccomp {
				t.Fatalf("no seccomp: %v", r.Report.Missing)
			}
			for _, name := range r.Allowed {
				t.Errorf("a confined engine can %s", name)
			}
			for _, name := range r.Wrong {
				t.Errorf("not refused but failed: %s", name)
			}
			if r.Works != "" {
				t.Errorf("ordinary work fails: %s", r.Works)
			}
		})
	}
}

func TestExecEndsTheProcess(t *testing.T) {
	_, err := runChild(t, "exec")
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("child: %v", err)
	}
	if ws := exit.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != unix.SIGSYS {
		t.Errorf("exec ended with %v, want SIGSYS", ws)
	}
}

func TestPolicyAssembles(t *testing.T) {
	p := policy(1)
	insts, err := p.Assemble()
	if err != nil {
		t.Fatal(err)
	}
	if len(insts) > 4096 { // BPF_MAXINSNS
		t.Errorf("%s instructions", strconv.Itoa(len(insts)))
	}
}
