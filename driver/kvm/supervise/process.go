package supervise

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone is the error for a process that has ended, or is another one by now.
var ErrGone = errors.New("the process has ended")

// Process is one engine process, held by a pidfd. All methods are safe for concurrent use.
type Process struct {
	PID       int
	StartTime uint64 // Stat.StartTime: with boot and pid, the process's identity

	pidfd *os.File
	own   *os.Process // nil if the process is not our child
	done  chan struct{}
	once  sync.Once

	mu     sync.Mutex
	status string // how it ended, if it was our child
	left   bool   // Release was called
}

// Find takes hold of the process with this identity. ErrGone if there is none.
func Find(pid int, startTime uint64) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("cannot hold process %d: %w", pid, err)
	}
	s, err := ReadStat(pid, 0)
	if err != nil || s.StartTime != startTime || s.State == 'Z' || s.State == 'X' {
		unix.Close(fd)
		return nil, ErrGone
	}
	return hold(pid, startTime, fd, nil), nil
}

// hold watches a process by its pidfd, which it takes over.
func hold(pid int, startTime uint64, fd int, own *os.Process) *Process {
	p := &Process{PID: pid, StartTime: startTime, own: own, done: make(chan struct{})}
	p.pidfd = os.NewFile(uintptr(fd), fmt.Sprintf("pidfd:%d", pid)) // nonblocking: waits in the poller, not in a thread
	go p.watch()
	return p
}

// watch waits for the end of the process, or of our interest.
func (p *Process) watch() {
	defer close(p.done)
	raw, err := p.pidfd.SyscallConn()
	if err == nil {
		err = raw.Read(func(fd uintptr) bool { return readable(int(fd)) })
	}
	if err != nil {
		return // Release
	}
	if p.own == nil {
		return
	}
	state, err := p.own.Wait() // reaps; does not block any more
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.status = state.String()
	}
}

// readable tells whether the process behind a pidfd has ended.
func readable(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if !errors.Is(err, unix.EINTR) {
			return err == nil && n > 0
		}
	}
}

// Done is closed when the process has ended or Release was called; Ended tells which.
func (p *Process) Done() <-chan struct{} { return p.done }

// Ended reports whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		p.mu.Lock()
		defer p.mu.Unlock()
		return !p.left
	default:
		return false
	}
}

// ExitStatus says how the process ended, "" where only its parent was told.
func (p *Process) ExitStatus() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// Kill sends SIGKILL. A process that has ended is no error.
func (p *Process) Kill() error {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var kerr error
	err = raw.Control(func(fd uintptr) {
		kerr = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0)
	})
	if errors.Is(err, os.ErrClosed) || errors.Is(kerr, unix.ESRCH) {
		return nil
	}
	return errors.Join(err, kerr)
}

// Release lets go of the process, which runs on, and returns when nothing watches it. After the end it only frees the
// descriptor.
func (p *Process) Release() {
	p.once.Do(func() {
		p.mu.Lock()
		select {
		case <-p.done:
		default:
			p.left = true
		}
		p.mu.Unlock()
		p.pidfd.Close()
	})
	<-p.done
}

// Command is an engine to start.
type Command struct {
	Path  string
	Args  []string   // without the program's name
	Files []*os.File // descriptors 0, 1, 2 and so on

	UID, GID int      // -1 keeps virtd's
	Cgroup   *os.File // directory of the cgroup to be born in, or nil
	Limits   []Limit
	// Namespaces are CLONE_NEW* flags; 0 for none.
	Namespaces uintptr
}

// Limit is a resource limit, soft and hard alike.
type Limit struct {
	Resource int // RLIMIT_*
	Value    uint64
}

// Start starts the engine as a session leader of its own. The process does not end with ours. Limits are in force when
// Start returns, which may be after its first instructions.
func Start(c Command) (*Process, error) {
	pidfd := -1
	attr := &os.ProcAttr{Dir: "/", Env: []string{"PATH=/usr/bin:/bin", "LANG=C.UTF-8"}, Files: c.Files, Sys: &syscall.SysProcAttr{
		Setsid: true, Cloneflags: c.Namespaces, PidFD: &pidfd,
	}}
	if c.UID >= 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: uint32(c.UID), Gid: uint32(c.GID)}
	}
	if c.Cgroup != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(c.Cgroup.Fd())
	}
	defer relaxTimers()()
	own, err := os.StartProcess(c.Path, append([]string{c.Path}, c.Args...), attr)
	if errors.Is(err, os.ErrPermission) && c.UID >= 0 {
		own, err = startByDescriptor(c, attr)
	}
	if err != nil {
		return nil, err
	}
	p, err := child(own, pidfd)
	if err != nil {
		return nil, errors.Join(err, own.Kill(), wait(own))
	}
	for _, l := range c.Limits {
		r := unix.Rlimit{Cur: l.Value, Max: l.Value}
		if err := unix.Prlimit(own.Pid, l.Resource, &r, nil); err != nil && !errors.Is(err, unix.EPERM) {
			err = fmt.Errorf("cannot limit resource %d of the engine: %w", l.Resource, err)
			return nil, errors.Join(err, p.End())
		}
	}
	return p, nil
}

// aboveFiles is a descriptor number that no Command.Files reaches.
const aboveFiles = 900

// startByDescriptor starts a program that only we can reach: the engine's own uid may lack search permission on a
// directory above it.
func startByDescriptor(c Command, attr *os.ProcAttr) (*os.Process, error) {
	exe, err := os.Open(c.Path)
	if err != nil {
		return nil, err
	}
	defer exe.Close()
	fd, err := unix.FcntlInt(exe.Fd(), unix.F_DUPFD_CLOEXEC, aboveFiles)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return os.StartProcess(fmt.Sprintf("/proc/self/fd/%d", fd), append([]string{c.Path}, c.Args...), attr)
}

func child(own *os.Process, pidfd int) (*Process, error) {
	s, err := ReadStat(own.Pid, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot identify the engine's process: %w", err)
	}
	if pidfd < 0 { // a kernel without CLONE_PIDFD; the child is not reaped yet, so its pid is its own
		if pidfd, err = unix.PidfdOpen(own.Pid, 0); err != nil {
			return nil, fmt.Errorf("cannot hold the engine's process: %w", err)
		}
	}
	if err := unix.SetNonblock(pidfd, true); err != nil {
		return nil, fmt.Errorf("cannot watch the engine's process: %w", err)
	}
	return hold(own.Pid, s.StartTime, pidfd, own), nil
}

// End kills the process, waits for its end and frees what Process holds.
func (p *Process) End() error {
	err := p.Kill()
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		err = errors.Join(err, fmt.Errorf("process %d was killed and is still there", p.PID))
	}
	p.Release()
	return err
}

func wait(own *os.Process) error {
	_, err := own.Wait()
	return err
}
