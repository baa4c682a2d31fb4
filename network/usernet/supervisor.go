package usernet

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"virtd/driver/kvm/supervise"
	"virtd/durable"
	"virtd/virterr"
)

// Options are what a Supervisor works with.
type Options struct {
	Helper string        // path of virtd-usernet
	Passt  func() string // finds passt, "" for none; nil looks in PATH
	Logs   string        // the processes' standard error
	Log    *slog.Logger
	// UIDBase is the first of the uids that processes get where virtd is root.
	UIDBase int
}

// uidCount is how many uids there are for processes.
const uidCount = 1000

// Supervisor starts, finds and ends the processes behind interfaces of type user. Its methods are safe for concurrent use.
type Supervisor struct {
	opts Options

	mu       sync.Mutex
	children map[string]*process // by the path of the record
	lost     func(Config, func() (*os.File, error)) error
	closed   bool
	watching sync.WaitGroup
	end      chan struct{} // closed by Close
}

type process struct {
	record
	proc     *supervise.Process
	restarts []time.Time
}

// record is what the next virtd finds a process by.
type record struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"`
	UID       int    `json:"uid"` // -1: virtd's own
	Config    Config `json:"config"`
	Info      Info   `json:"info"`
}

// NewSupervisor returns a supervisor that knows no process yet: Adopt finds those of a domain that runs.
func NewSupervisor(o Options) *Supervisor {
	if o.Passt == nil {
		o.Passt = func() string {
			path, err := exec.LookPath("passt")
			if err != nil {
				return ""
			}
			return path
		}
	}
	if o.UIDBase == 0 {
		o.UIDBase = 1_998_000
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &Supervisor{opts: o, children: map[string]*process{}, end: make(chan struct{})}
}

// OnLost sets what is called when a process ended by itself, from a goroutine of its own: it calls start, which starts
// another, and gives the socket to the engine; or does not, when the engine is gone too. Call it before Start and Adopt.
func (s *Supervisor) OnLost(f func(c Config, start func() (*os.File, error)) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = f
}

// Close lets go of the processes, which go on.
func (s *Supervisor) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.end)
	}
	for _, c := range s.children {
		c.proc.Release()
	}
	s.mu.Unlock()
	s.watching.Wait()
}

const recordPrefix = "usernet-" // before the interface's alias

func recordPath(dir, alias string) string { return filepath.Join(dir, recordPrefix+alias+".json") }

// Start starts the process behind an interface and returns the engine's end of the socket. An error says what the process
// said.
func (s *Supervisor) Start(c Config) (*os.File, Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.start(c, nil)
}

func (s *Supervisor) start(c Config, restarts []time.Time) (*os.File, Info, error) {
	p := &process{record: record{UID: s.freeUID(), Config: c, Info: Info{Backend: Own}}, restarts: restarts}
	passt := s.opts.Passt()
	if passt != "" {
		p.Info.Backend = Passt
	} else if err := c.checkOwn(); err != nil {
		return nil, Info{}, err
	}
	engine, theirs, err := socketPair()
	if err != nil {
		return nil, Info{}, failed(c, "make a socket: %w", err)
	}
	defer theirs.Close()
	run := s.runOwn
	if p.Info.Backend == Passt {
		run = func(p *process, f *os.File) error { return s.runPasst(passt, p, f) }
		if c.Network.IPv4.IsValid() {
			p.Info.Addresses = append(p.Info.Addresses, c.Network.IPv4)
		}
		if c.Network.IPv6.IsValid() {
			p.Info.Addresses = append(p.Info.Addresses, c.Network.IPv6)
		}
	} else {
		p.Info.Addresses = append(p.Info.Addresses, c.guest())
	}
	if err := run(p, theirs); err != nil {
		engine.Close()
		return nil, Info{}, err
	}
	path := recordPath(c.Dir, c.Alias)
	s.adopt(path, p)
	text, err := json.Marshal(p.record)
	if err == nil {
		err = durable.Write(path, text)
	}
	if err != nil {
		engine.Close()
		return nil, Info{}, errors.Join(failed(c, "record the process: %w", err), s.stop(path))
	}
	return engine, p.Info, nil
}

func failed(c Config, format string, args ...any) error {
	return virterr.New(virterr.InternalError, "cannot start the network of interface %s of domain '%s': %w", c.Alias, c.Domain, fmt.Errorf(format, args...))
}

// socketPair returns the two ends of a stream socket. The engine's does not block.
func socketPair() (engine, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	for _, fd := range fds { // frames come in batches
		for _, o := range []int{unix.SO_SNDBUF, unix.SO_RCVBUF} {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, o, 1<<20); err != nil {
				unix.Close(fds[0])
				unix.Close(fds[1])
				return nil, nil, err
			}
		}
	}
	return os.NewFile(uintptr(fds[0]), "user network"), os.NewFile(uintptr(fds[1]), "user network"), nil
}

func (s *Supervisor) logPath(c Config) string {
	return filepath.Join(s.opts.Logs, c.Domain+"-"+c.Alias+".log")
}

// spawn starts a program with these descriptors from 3 on.
func (s *Supervisor) spawn(p *process, path string, args []string, files ...*os.File) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	log, err := os.OpenFile(s.logPath(p.Config), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p.proc, err = supervise.Start(supervise.Command{
		Path: path, Args: args, Files: append([]*os.File{null, log, log}, files...), UID: p.UID, GID: p.UID,
		Limits: []supervise.Limit{{Resource: unix.RLIMIT_CORE, Value: 0}, {Resource: unix.RLIMIT_NOFILE, Value: 4096}},
	})
	if err != nil {
		return err
	}
	p.PID, p.StartTime = p.proc.PID, p.proc.StartTime
	return nil
}

// settleTime is how long passt has to say that it does not like its options: it does not tell when it is ready.
const settleTime = 250 * time.Millisecond

// runPasst starts passt. It confines itself: namespaces of its own, no files, a list of system calls.
func (s *Supervisor) runPasst(path string, p *process, socket *os.File) error {
	if err := s.spawn(p, path, p.Config.passtArgs(FDSocket), socket); err != nil {
		return failed(p.Config, "%s: %w", path, err)
	}
	select {
	case <-p.proc.Done():
		p.proc.Release()
		return failed(p.Config, "passt ended: %s", s.lastWords(p.Config))
	case <-time.After(settleTime):
		return nil
	}
}

// runOwn starts virtd-usernet, which tells when it is ready.
func (s *Supervisor) runOwn(p *process, socket *os.File) error {
	configR, configW, err := os.Pipe()
	if err != nil {
		return failed(p.Config, "%w", err)
	}
	defer configW.Close()
	defer configR.Close()
	statusR, statusW, err := os.Pipe()
	if err != nil {
		return failed(p.Config, "%w", err)
	}
	defer statusR.Close()
	defer statusW.Close()
	if err := s.spawn(p, s.opts.Helper, []string{p.Config.Domain, p.Config.Alias}, socket, configR, statusW); err != nil {
		return failed(p.Config, "%s: %w; is it installed beside virtd? passt would do too", s.opts.Helper, err)
	}
	statusW.Close()
	socket.Close() // so that the end of the process is the end of what the engine reads
	err = s.configure(p, configW, statusR)
	if err != nil {
		return errors.Join(err, p.proc.End())
	}
	return nil
}

// startTime is how long our own process has to be ready.
const startTime = 20 * time.Second

func (s *Supervisor) configure(p *process, config, status *os.File) error {
	deadline := time.Now().Add(startTime)
	if err := errors.Join(config.SetWriteDeadline(deadline), status.SetReadDeadline(deadline)); err != nil {
		return failed(p.Config, "%w", err)
	}
	if err := json.NewEncoder(config).Encode(p.Config); err != nil {
		return failed(p.Config, "the process reads nothing: %w", err)
	}
	var st Report
	if err := json.NewDecoder(status).Decode(&st); err != nil {
		return failed(p.Config, "the process says nothing: %w; %s", err, s.lastWords(p.Config))
	}
	if st.Error != "" {
		return failed(p.Config, "%s", st.Error)
	}
	for _, m := range st.Missing {
		s.opts.Log.Warn("the network of an interface runs without protection", "domain", p.Config.Domain, "interface", p.Config.Alias, "missing", m)
	}
	return nil
}

// lastWords is the end of a process's log, on one line.
func (s *Supervisor) lastWords(c Config) string {
	text, err := os.ReadFile(s.logPath(c))
	if err != nil || len(text) == 0 {
		return "it left no word in " + s.logPath(c)
	}
	const most = 500
	if len(text) > most {
		text = text[len(text)-most:]
	}
	return strings.Join(strings.Fields(strings.ToValidUTF8(string(text), "?")), " ")
}

// freeUID returns a uid that no process has; -1 where virtd cannot give any. The manager's lock is held.
func (s *Supervisor) freeUID() int {
	if os.Geteuid() != 0 {
		return -1
	}
	used := map[int]bool{}
	for _, c := range s.children {
		used[c.UID] = true
	}
	for uid := s.opts.UIDBase; uid < s.opts.UIDBase+uidCount; uid++ {
		if !used[uid] {
			return uid
		}
	}
	return s.opts.UIDBase // shared, rather than no network
}

// Adopt finds the processes of a domain that runs, and has those that ended meanwhile replaced.
func (s *Supervisor) Adopt(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, path := range recordPaths(dir) {
		r, err := readRecord(path)
		if err != nil {
			s.opts.Log.Error("the record of an interface's network cannot be read", "file", path, "error", err)
			continue
		}
		p := &process{record: r}
		if p.proc, err = supervise.Find(r.PID, r.StartTime); err != nil {
			s.watching.Go(func() { s.replace(path, p) })
			continue
		}
		s.adopt(path, p)
	}
}

func recordPaths(dir string) []string {
	all, _ := filepath.Glob(filepath.Join(dir, recordPrefix+"*.json")) // fails for a bad pattern only
	var out []string
	for _, path := range all {
		if !durable.Unfinished(filepath.Base(path)) {
			out = append(out, path)
		}
	}
	return out
}

func readRecord(path string) (r record, err error) {
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	r.Config.Dir = filepath.Dir(path)
	if err == nil && r.PID <= 1 {
		err = fmt.Errorf("it names process %d", r.PID)
	}
	return r, err
}

// adopt puts a process on the list and watches it.
func (s *Supervisor) adopt(path string, p *process) {
	s.children[path] = p
	s.watching.Go(func() { s.watch(path, p) })
}

// watch replaces a process that ended by itself.
func (s *Supervisor) watch(path string, p *process) {
	<-p.proc.Done()
	s.mu.Lock()
	ours := !s.closed && s.children[path] == p && p.proc.Ended()
	s.mu.Unlock()
	if !ours {
		return
	}
	p.proc.Release()
	s.replace(path, p)
}

// Restarts of one process: at most so many in so long.
const (
	mostRestarts  = 5
	restartPeriod = time.Minute
)

// replace asks whoever has the engine for a place for another process.
func (s *Supervisor) replace(path string, p *process) {
	s.mu.Lock()
	lost := s.lost
	s.mu.Unlock()
	if lost == nil {
		return
	}
	recent := p.restarts[:0]
	for _, t := range p.restarts {
		if time.Since(t) < restartPeriod {
			recent = append(recent, t)
		}
	}
	log := s.opts.Log.With("domain", p.Config.Domain, "interface", p.Config.Alias)
	again := func() (*os.File, error) {
		log.Error("the process behind an interface ended and is started again", "program", p.Info.Backend, "log", s.logPath(p.Config), "said", s.lastWords(p.Config))
		s.mu.Lock()
		defer s.mu.Unlock()
		if now := s.children[path]; s.closed || now != nil && now != p {
			return nil, errors.New("it is somebody else's business now")
		}
		f, _, err := s.start(p.Config, append(recent, time.Now()))
		return f, err
	}
	if len(recent) >= mostRestarts {
		log.Error("the process behind an interface ends again and again and stays off; the interface has no network until the domain is started anew")
		return
	}
	if err := lost(p.Config, again); err != nil {
		log.Error("the process behind an interface ended and cannot be replaced; the interface has no network", "error", err)
	}
}

// Stop ends the process behind an interface. None is no error.
func (s *Supervisor) Stop(dir, alias string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stop(recordPath(dir, alias))
}

// StopAll ends all processes of a domain.
func (s *Supervisor) StopAll(dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, path := range recordPaths(dir) {
		errs = append(errs, s.stop(path))
	}
	return errors.Join(errs...)
}

func (s *Supervisor) stop(path string) error {
	p := s.children[path]
	delete(s.children, path)
	if p == nil {
		r, err := readRecord(path)
		if err != nil {
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			return fmt.Errorf("cannot tell which process to end: %w", err)
		}
		proc, err := supervise.Find(r.PID, r.StartTime)
		if errors.Is(err, supervise.ErrGone) {
			return removeRecord(path)
		}
		if err != nil {
			return err
		}
		p = &process{record: r, proc: proc}
	}
	if p.proc.Ended() { // and was let go of, maybe
		p.proc.Release()
	} else if err := p.proc.End(); err != nil {
		return fmt.Errorf("cannot end the process behind interface %s of domain '%s': %w", p.Config.Alias, p.Config.Domain, err)
	}
	return removeRecord(path)
}

func removeRecord(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// PID returns the process behind an interface, as it is on record.
func (s *Supervisor) PID(dir, alias string) (int, bool) {
	r, err := readRecord(recordPath(dir, alias))
	return r.PID, err == nil
}
