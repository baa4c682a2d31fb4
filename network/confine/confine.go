package confine

import (
	"fmt"
	"os"
	"time"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/landlock-lsm/go-landlock/landlock"
	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// ResolverDirs are where the host says who answers DNS: a child reads /etc/resolv.conf again when it changes, which programs
// do by a rename, and which may be a link.
var ResolverDirs = []string{"/etc", "/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf", "/run/connman"}

// Apply takes from all threads of this process what serving a network does not need, for good, and returns what this host
// could not take. What the process reads later is below dirs. An error means that no_new_privs could not be set.
func Apply(dirs []string) (missing []string, err error) {
	_ = time.Now().Local().String() // loads the zone file while paths still work
	if err := llsys.AllThreadsPrctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("set no_new_privs: %w", err)
	}
	if v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, 1); errno != 0 || v == 0 {
		missing = append(missing, "landlock is not in this kernel")
	} else if err := landlock.V5.BestEffort().RestrictPaths(landlock.RODirs(dirs...).IgnoreIfMissing()); err != nil {
		missing = append(missing, "landlock: "+err.Error())
	}
	filter := seccomp.Filter{NoNewPrivs: true, Flag: seccomp.FilterFlagTSync, Policy: policy(os.Getpid())}
	if err := seccomp.LoadFilter(filter); err != nil {
		missing = append(missing, "seccomp: "+err.Error())
	}
	return missing, nil
}

// Why each system call is here: who makes it while the child serves. What is absent fails with EPERM.
var (
	runtimeCalls = []string{ // Go's scheduler, memory and timers
		"futex", "sched_yield", "nanosleep", "clock_nanosleep", "clock_gettime", "gettimeofday", "gettid", "getpid",
		"madvise", "munmap", "sigaltstack", "rt_sigprocmask", "rt_sigaction", "rt_sigreturn", "restart_syscall",
		"epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_wait", "eventfd2", "pipe2", "exit", "exit_group",
		"set_robust_list", "rseq", "sched_getaffinity", "getrandom", "getrusage", "membarrier", "mincore", "uname",
		"timer_create", "timer_settime", "timer_delete",
	}
	serviceCalls = []string{ // packets, leases, the control socket, questions to other resolvers, resolv.conf
		"read", "write", "readv", "writev", "pread64", "pwrite64", "fsync", "fdatasync", "ftruncate", "fstat", "newfstatat",
		"statx", "openat", "openat2", "readlinkat", "lseek", "close", "fcntl", "recvmsg", "sendmsg", "recvfrom", "sendto", "accept4",
		"connect", "bind", "listen", "shutdown", "getsockname", "getpeername", "getsockopt", "setsockopt",
	}
)

// policy is the filter of a running child with this process id.
func policy(pid int) seccomp.Policy {
	const (
		threadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD
		prSetVMA    = 0x53564d41 // PR_SET_VMA: the runtime names its mappings
	)
	equal := func(arg uint32, v uint64) seccomp.ArgumentConditions {
		return seccomp.ArgumentConditions{{Argument: arg, Operation: seccomp.Equal, Value: v}}
	}
	noExec := seccomp.ArgumentConditions{{Argument: 2, Operation: seccomp.BitsNotSet, Value: unix.PROT_EXEC}}
	checked := []seccomp.NameWithConditions{
		{Name: "mmap", Conditions: noExec}, {Name: "mprotect", Conditions: noExec},
		{Name: "tgkill", Conditions: equal(0, uint64(pid))},
		{Name: "clone", Conditions: equal(0, threadFlags)}, {Name: "clone", Conditions: equal(0, threadFlags|unix.CLONE_SETTLS)},
		{Name: "prctl", Conditions: equal(0, unix.PR_SET_NAME)}, {Name: "prctl", Conditions: equal(0, prSetVMA)},
		{Name: "socket", Conditions: equal(0, unix.AF_INET)}, {Name: "socket", Conditions: equal(0, unix.AF_INET6)},
	}
	return seccomp.Policy{
		DefaultAction: seccomp.ActionErrno,
		Syscalls: []seccomp.SyscallGroup{
			{Action: seccomp.ActionKillProcess, Names: []string{"execve", "execveat", "ptrace", "process_vm_readv", "process_vm_writev"}},
			{Action: seccomp.ActionAllow, Names: append(append([]string(nil), runtimeCalls...), serviceCalls...)},
			{Action: seccomp.ActionAllow, NamesWithCondtions: checked}, // last: see hypervisor/confine
		},
	}
}
