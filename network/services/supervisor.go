package services

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"virtd/driver/kvm/supervise"
	"virtd/durable"
	"virtd/network/dhcp"
)

// Options are what a Supervisor works with.
type Options struct {
	Program string   // this program
	Args    []string // that give it the role; nil: Role
	Run     string   // a directory for each child; does not survive a boot
	Leases  string   // leases; survive one
	Logs    string   // the children's standard error
	UIDBase int      // first of UIDCount uids that children get where virtd is root
	Log     *slog.Logger
}

// uidCount is how many uids there are for children, and so how many networks can be served.
const uidCount = 1000

// Supervisor starts, finds and ends the children. Its methods are safe for concurrent use.
type Supervisor struct {
	opts Options

	mu       sync.Mutex
	children map[uuid.UUID]*process
	closed   bool
	watching sync.WaitGroup
}

// process is one child. Guarded by Supervisor.mu.
type process struct {
	record
	proc   *supervise.Process
	starts []time.Time // of restarts, to tell one that dies at once
}

// record is what the next virtd finds a child by.
type record struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"`
	UID       int    `json:"uid"` // -1: virtd's own
	Config    Config `json:"config"`
}

// NewSupervisor returns a supervisor that knows no child yet: Serve finds those that run.
func NewSupervisor(o Options) (*Supervisor, error) {
	if o.Args == nil {
		o.Args = []string{Role}
	}
	if o.UIDBase == 0 {
		o.UIDBase = 1_999_000
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	for _, dir := range []string{o.Run, o.Leases, o.Logs} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, failed("make directory '%s': %w", dir, err)
		}
	}
	return &Supervisor{opts: o, children: map[uuid.UUID]*process{}}, nil
}

// Close lets go of the children, which go on.
func (s *Supervisor) Close() {
	s.mu.Lock()
	s.closed = true
	for _, c := range s.children {
		c.proc.Release()
	}
	s.mu.Unlock()
	s.watching.Wait()
}

func (s *Supervisor) dir(id uuid.UUID) string { return filepath.Join(s.opts.Run, id.String()) }

// Serve sees to it that a network is served as c says: by the child that runs, told of the change, or by a new one.
func (s *Supervisor) Serve(c Config) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.children[c.UUID]
	if old == nil {
		old = s.find(c.UUID)
	}
	if old != nil && !c.Empty() && old.Config.sameSockets(c) && !old.proc.Ended() {
		if err := s.tell(old, c); err == nil {
			return nil
		} else {
			s.opts.Log.Warn("the services of a network are started again", "network", c.Name, "error", err)
		}
	}
	if old != nil {
		if err := s.end(c.UUID, old); err != nil {
			return err
		}
	}
	if c.Empty() {
		return nil
	}
	return s.start(c, nil)
}

// find adopts the child of an earlier virtd. nil if there is none.
func (s *Supervisor) find(id uuid.UUID) *process {
	r, ok := readRecord(s.recordPath(id))
	if !ok {
		return nil
	}
	proc, err := supervise.Find(r.PID, r.StartTime)
	if err != nil {
		return nil
	}
	p := &process{record: r, proc: proc}
	s.adopt(id, p)
	return p
}

func (s *Supervisor) recordPath(id uuid.UUID) string { return filepath.Join(s.dir(id), "record.json") }

// readRecord returns a record, and false where there is none that can be understood.
func readRecord(path string) (r record, ok bool) {
	text, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(text, &r) != nil {
		return r, false
	}
	return r, r.PID > 1
}

// recorded returns the records of all children, of earlier virtds too.
func (s *Supervisor) recorded() (list []record) {
	paths, _ := filepath.Glob(filepath.Join(s.opts.Run, "*", "record.json")) // fails for a bad pattern only
	for _, path := range paths {
		if r, ok := readRecord(path); ok {
			list = append(list, r)
		}
	}
	return list
}

// adopt puts a child on the list and watches it.
func (s *Supervisor) adopt(id uuid.UUID, p *process) {
	s.children[id] = p
	s.watching.Go(func() { s.watch(id, p) })
}

// watch starts a child again that ended by itself.
func (s *Supervisor) watch(id uuid.UUID, p *process) {
	<-p.proc.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.children[id] != p || !p.proc.Ended() {
		return
	}
	s.opts.Log.Error("the services of a network ended and are started again", "network", p.Config.Name, "status", p.proc.ExitStatus(), "log", s.logPath(p.Config))
	delete(s.children, id)
	p.proc.Release()
	recent := p.starts[:0]
	for _, t := range p.starts {
		if time.Since(t) < time.Minute {
			recent = append(recent, t)
		}
	}
	const most = 5
	if len(recent) >= most {
		s.opts.Log.Error("the services of a network end again and again and stay off; stop and start it", "network", p.Config.Name)
		return
	}
	if err := s.start(p.Config, append(recent, time.Now())); err != nil {
		s.opts.Log.Error("the services of a network cannot be started again; stop and start it", "network", p.Config.Name, "error", err)
	}
}

func (s *Supervisor) logPath(c Config) string {
	return filepath.Join(s.opts.Logs, "network-"+c.UUID.String()+".log")
}

// start makes a child.
func (s *Supervisor) start(c Config, restarts []time.Time) error {
	dir := s.dir(c.UUID)
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return failed("make directory '%s': %w", dir, err)
	}
	sockets, err := open(c, s.opts.Leases)
	if err != nil {
		return err
	}
	defer closeAll(sockets)
	control, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.controlPath(c.UUID), Net: "unix"})
	if err != nil {
		return failed("listen for the services of network '%s': %w", c.Name, err)
	}
	control.SetUnlinkOnClose(false)
	defer control.Close()
	listener, err := control.File()
	if err != nil {
		return failed("pass the control socket of network '%s': %w", c.Name, err)
	}
	defer listener.Close()
	p := &process{record: record{UID: s.freeUID(), Config: c}, starts: restarts}
	config, err := s.spawn(p, listener, sockets)
	if err != nil {
		return failed("start the services of network '%s': %w", c.Name, err)
	}
	defer config.Close()
	// Only the child's own descriptors are left, so that its end ends the question below.
	listener.Close()
	control.Close()
	s.adopt(c.UUID, p)
	if err := s.save(p); err != nil {
		return errors.Join(err, s.end(c.UUID, p))
	}
	err = configure(config, c)
	if err == nil {
		_, err = s.ask(c.UUID, request{Op: opLeases})
	}
	if err != nil {
		return errors.Join(failed("start the services of network '%s': %w; see %s", c.Name, err, s.logPath(c)), s.end(c.UUID, p))
	}
	return nil
}

func (s *Supervisor) controlPath(id uuid.UUID) string { return filepath.Join(s.dir(id), "control") }

// spawn starts the process, which waits for its configuration to come through the returned pipe. It is sent when the child is
// on record: one whose virtd was killed before that reads the end of the pipe, and does not stay behind with the sockets.
func (s *Supervisor) spawn(p *process, control *os.File, sockets []*os.File) (config *os.File, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	log, err := os.OpenFile(s.logPath(p.Config), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	in, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	files := append([]*os.File{null, log, log, in, control}, sockets...)
	p.proc, err = supervise.Start(supervise.Command{
		Path: s.opts.Program, Args: append(s.opts.Args[:len(s.opts.Args):len(s.opts.Args)], p.Config.Name), Files: files, UID: p.UID, GID: p.UID,
		Limits: []supervise.Limit{{Resource: unix.RLIMIT_CORE, Value: 0}, {Resource: unix.RLIMIT_NOFILE, Value: 1024}},
	})
	if err != nil {
		out.Close()
		return nil, err
	}
	p.PID, p.StartTime = p.proc.PID, p.proc.StartTime
	return out, nil
}

// configure sends a new child what it serves.
func configure(to *os.File, c Config) error {
	if err := to.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	return json.NewEncoder(to).Encode(start{Config: c, Files: c.sockets()})
}

// freeUID returns a uid that no child has; -1 where virtd cannot give any.
func (s *Supervisor) freeUID() int {
	if os.Geteuid() != 0 {
		return -1
	}
	used := map[int]bool{}
	for _, c := range s.children {
		used[c.UID] = true
	}
	for _, r := range s.recorded() { // of children that no call has been about yet
		used[r.UID] = true
	}
	for uid := s.opts.UIDBase; uid < s.opts.UIDBase+uidCount; uid++ {
		if !used[uid] {
			return uid
		}
	}
	return s.opts.UIDBase // shared, rather than not served
}

func (s *Supervisor) save(p *process) error {
	text, err := json.Marshal(p.record)
	if err == nil {
		err = durable.Write(s.recordPath(p.Config.UUID), text)
	}
	if err != nil {
		return failed("record the services of network '%s': %w", p.Config.Name, err)
	}
	return nil
}

// tell gives a child a changed configuration.
func (s *Supervisor) tell(p *process, c Config) error {
	resp, err := s.ask(c.UUID, request{Op: opConfigure, Config: &c})
	if err != nil {
		return err
	}
	if resp.Error != "" {
		return errors.New(resp.Error)
	}
	p.Config = c
	return s.save(p)
}

// ask sends one request. The child answers from its start on, once it is confined.
func (s *Supervisor) ask(id uuid.UUID, req request) (response, error) {
	var resp response
	conn, err := net.DialTimeout("unix", s.controlPath(id), 5*time.Second)
	if err != nil {
		return resp, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return resp, err
	}
	if err := json.NewEncoder(conn).Encode(req); err != nil {
		return resp, err
	}
	if err := json.NewDecoder(conn).Decode(&resp); err != nil {
		return resp, fmt.Errorf("no answer: %w", err)
	}
	return resp, nil
}

// Stop ends the services of a network. None is no error.
func (s *Supervisor) Stop(id uuid.UUID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.children[id]
	if p == nil {
		p = s.find(id)
	}
	if p == nil {
		return os.RemoveAll(s.dir(id))
	}
	return s.end(id, p)
}

func (s *Supervisor) end(id uuid.UUID, p *process) error {
	delete(s.children, id)
	if err := p.proc.End(); err != nil {
		return failed("end the services of network '%s': %w", p.Config.Name, err)
	}
	if err := os.RemoveAll(s.dir(id)); err != nil {
		return failed("remove '%s': %w", s.dir(id), err)
	}
	return nil
}

// Leases returns the leases of a network that is served.
func (s *Supervisor) Leases(id uuid.UUID) ([]dhcp.Lease, error) {
	resp, err := s.ask(id, request{Op: opLeases})
	if err != nil {
		return nil, failed("ask for the leases of network %s: %w", id, err)
	}
	return resp.Leases, nil
}

// Forget removes the stored leases of a network.
func (s *Supervisor) Forget(id uuid.UUID) error {
	var errs []error
	for _, n := range []string{fileLeases + "0", fileLeases + "1", fileLeases6 + "0", fileLeases6 + "1"} {
		if err := os.Remove(leasePath(s.opts.Leases, Config{UUID: id}, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, ignoreMissing(os.Remove(s.logPath(Config{UUID: id}))))
	return errors.Join(errs...)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
