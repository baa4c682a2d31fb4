package confine

import (
	seccomp "github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"
)

// Why each system call is here: who in the engine makes it while the machine runs. Opening, executing, sockets,
// namespaces, credentials, io_uring_setup and io_uring_register are absent on purpose.
var (
	runtimeCalls = []string{ // Go's scheduler, memory and timers
		"futex", "sched_yield", "nanosleep", "clock_nanosleep", "clock_gettime", "gettimeofday", "gettid", "getpid",
		"madvise", "munmap", "sigaltstack", "rt_sigprocmask", "rt_sigaction", "rt_sigreturn", "restart_syscall",
		"epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_wait", "eventfd2", "pipe2", "exit", "exit_group",
		"set_robust_list", "rseq", "sched_getaffinity", "getrandom", "getrusage", "membarrier", "mincore", "uname",
		"timer_create", "timer_settime", "timer_delete",
	}
	ioCalls = []string{ // disks, taps, serial ports, eventfds, the monitor's connections
		"read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2",
		"fsync", "fdatasync", "fallocate", "ftruncate", "fstat", "fstatfs", "lseek", "close", "poll", "ppoll", "fcntl", "dup3",
		"io_uring_enter", "recvmsg", "sendmsg", "recvfrom", "sendto", "accept4", "shutdown", "getsockname",
		"getpeername", "getsockopt", "setsockopt", "timerfd_create", "timerfd_settime",
	}
)

// Conditions on arguments that the system calls below are let through with.
const (
	// goThreadFlags are the clone(2) flags of a Go thread: VM|FS|FILES|SIGHAND|SYSVSEM|THREAD.
	goThreadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD
	prSetVMA      = 0x53564d41 // PR_SET_VMA: the runtime names its mappings
)

// policy is the filter of a running engine with this process id. Anything not listed fails with EPERM, so that a call
// nobody thought of shows in the log and not as a dead guest; what only an attack would do ends the process.
func policy(pid int) seccomp.Policy {
	equal := func(arg uint32, v uint64) seccomp.Condition {
		return seccomp.Condition{Argument: arg, Operation: seccomp.Equal, Value: v}
	}
	notSet := func(arg uint32, bits uint64) seccomp.Condition {
		return seccomp.Condition{Argument: arg, Operation: seccomp.BitsNotSet, Value: bits}
	}
	checked := []seccomp.NameWithConditions{
		{Name: "mmap", Conditions: seccomp.ArgumentConditions{notSet(2, unix.PROT_EXEC)}},
		{Name: "mprotect", Conditions: seccomp.ArgumentConditions{notSet(2, unix.PROT_EXEC)}},
		{Name: "memfd_create", Conditions: seccomp.ArgumentConditions{equal(1, unix.MFD_CLOEXEC)}}, // where vhost-user back ends note what they write
		{Name: "tgkill", Conditions: seccomp.ArgumentConditions{equal(0, uint64(pid))}},
		{Name: "clone", Conditions: seccomp.ArgumentConditions{equal(0, goThreadFlags)}},
		{Name: "clone", Conditions: seccomp.ArgumentConditions{equal(0, goThreadFlags|unix.CLONE_SETTLS)}},                                                    // without cgo
		{Name: "clone", Conditions: seccomp.ArgumentConditions{equal(0, goThreadFlags|unix.CLONE_SETTLS|unix.CLONE_PARENT_SETTID|unix.CLONE_CHILD_CLEARTID)}}, // glibc's
		{Name: "prctl", Conditions: seccomp.ArgumentConditions{equal(0, unix.PR_SET_NAME)}},
		{Name: "prctl", Conditions: seccomp.ArgumentConditions{equal(0, prSetVMA)}},
		{Name: "prctl", Conditions: seccomp.ArgumentConditions{equal(0, unix.PR_SET_TIMERSLACK)}}, // a queue pair's thread pauses
	}
	for _, cmd := range ioctls {
		checked = append(checked, seccomp.NameWithConditions{Name: "ioctl", Conditions: seccomp.ArgumentConditions{equal(1, cmd)}})
	}
	checked = append(checked,
		seccomp.NameWithConditions{Name: "ioctl", Conditions: ioctlType(0xAE)}, // KVM
		seccomp.NameWithConditions{Name: "ioctl", Conditions: ioctlType(0xAF)}) // vhost
	return seccomp.Policy{
		DefaultAction: seccomp.ActionErrno,
		Syscalls: []seccomp.SyscallGroup{
			{Action: seccomp.ActionKillProcess, Names: []string{"execve", "execveat", "ptrace", "process_vm_readv", "process_vm_writev"}},
			// The C library, which programs have that are built for the race detector, falls back to clone then and only then.
			{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"clone3"}},
			{Action: seccomp.ActionAllow, Names: append(append([]string(nil), runtimeCalls...), ioCalls...)},
			// Last, with ioctl at the end: the assembler does not load the call's number again after it has
			// looked at arguments.
			{Action: seccomp.ActionAllow, NamesWithCondtions: checked},
		},
	}
}

// ioctls of single devices that have no type byte of their own to go by.
var ioctls = []uint64{
	0xAE80,                               // KVM_RUN, first because it is the hot one
	unix.TUNSETOFFLOAD,                   // guest changes its offloads
	unix.TUNSETSTEERINGEBPF,              // guest chooses, or no more, by what its packets get to queues
	unix.TUNSETQUEUE,                     // guest changes its number of queue pairs
	unix.TUNGETIFF, unix.TUNSETVNETHDRSZ, // a tap of a device that came later
	unix.TCGETS,                 // is this chardev a terminal
	unix.TIOCOUTQ, unix.TIOCINQ, // how full it is
	unix.BLKDISCARD, blkZeroOut, // discard and write-zeroes on a block device
	unix.BLKGETSIZE64, blkSSZGet, // its size after a resize

	// What a function of the host needs that comes to a running machine, by descriptors of VFIO that virtd sends: with one
	// the engine reaches that function, and by it its own memory, and nothing else has these requests (linux/vfio.h).
	0x3b64, 0x3b65, 0x3b66, // VFIO_GET_API_VERSION, VFIO_CHECK_EXTENSION, VFIO_SET_IOMMU
	0x3b67, 0x3b68, 0x3b6a, // VFIO_GROUP_GET_STATUS, VFIO_GROUP_SET_CONTAINER, VFIO_GROUP_GET_DEVICE_FD
	0x3b6b, 0x3b6c, 0x3b6d, // VFIO_DEVICE_GET_INFO, _GET_REGION_INFO, _GET_IRQ_INFO
	0x3b6e, 0x3b6f, // VFIO_DEVICE_SET_IRQS, VFIO_DEVICE_RESET
	0x3b70, 0x3b71, 0x3b72, // VFIO_IOMMU_GET_INFO, VFIO_IOMMU_MAP_DMA, VFIO_IOMMU_UNMAP_DMA
	0x3b75, // VFIO_IOMMU_DIRTY_PAGES; of a device that the engine has, the number is VFIO_DEVICE_FEATURE
	// The same with iommufd (linux/iommufd.h).
	0x3b76, 0x3b77, 0x3b78, // VFIO_DEVICE_BIND_IOMMUFD, VFIO_DEVICE_ATTACH_IOMMUFD_PT, VFIO_DEVICE_DETACH_IOMMUFD_PT
	0x3b80, 0x3b81, 0x3b84, // IOMMU_DESTROY, IOMMU_IOAS_ALLOC, IOMMU_IOAS_IOVA_RANGES
	0x3b85, 0x3b86, // IOMMU_IOAS_MAP, IOMMU_IOAS_UNMAP
	0x3b89, 0x3b8a, // IOMMU_HWPT_ALLOC, IOMMU_GET_HW_INFO
	0x3b8b, 0x3b8c, // IOMMU_HWPT_SET_DIRTY_TRACKING, IOMMU_HWPT_GET_DIRTY_BITMAP
}

const (
	blkZeroOut = 0x127f // BLKZEROOUT, linux/fs.h
	blkSSZGet  = 0x1268 // BLKSSZGET, linux/fs.h
)

// ioctlType matches the requests whose type byte (bits 8 to 15, _IOC_TYPE) is t: each set bit set, no other.
func ioctlType(t uint64) seccomp.ArgumentConditions {
	conditions := seccomp.ArgumentConditions{{Argument: 1, Operation: seccomp.BitsNotSet, Value: (^t & 0xff) << 8}}
	for bit := uint64(1); bit <= 0x80; bit <<= 1 {
		if t&bit != 0 {
			conditions = append(conditions, seccomp.Condition{Argument: 1, Operation: seccomp.BitsSet, Value: bit << 8})
		}
	}
	return conditions
}
