package kvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"virtd/driver"
	"virtd/driver/kvm/supervise"
	"virtd/hypervisor"
	"virtd/hypervisor/memory"
	"virtd/virterr"
)

// Start implements driver.Driver.
func (d *Driver) Start(ctx context.Context, req driver.Request) (driver.Instance, error) {
	cfg, resources, err := Plan(req.Live, d.facts())
	if err != nil {
		return nil, err
	}
	if err := checkMemory(cfg); err != nil {
		return nil, err
	}
	uid, err := d.takeUID()
	if err != nil {
		return nil, err
	}
	s := &starter{d: d, cfg: cfg, rec: record{Version: recordVersion, UID: uid, Memory: cfg.Memory.Size, Warnings: d.warnings}}
	inst, err := s.run(ctx, req, resources)
	if err != nil {
		d.dropUID(uid)
		return nil, err
	}
	return inst, nil
}

// starter is one engine on its way.
type starter struct {
	d    *Driver
	cfg  hypervisor.Config
	rec  record
	proc *supervise.Process
}

// run goes through the steps of a start and undoes them on an error.
func (s *starter) run(ctx context.Context, req driver.Request, resources []Resource) (*instance, error) {
	name := req.Live.Name()
	s.rec.Dir = filepath.Join(s.d.cfg.RunDir, req.Live.UUID().String())
	// What an earlier run left here, which could not be removed then.
	if err := s.d.removeLive(s.rec.Dir); err != nil {
		return nil, err
	}
	if err := freshDir(s.rec.Dir); err != nil {
		return nil, err
	}
	if err := s.claim(ctx, name, resources); err != nil {
		return nil, errors.Join(err, s.d.clean(&s.rec))
	}
	inst, err := s.launch(ctx, req, resources)
	if err != nil {
		s.d.releaseTaps(s.rec.Taps)
		s.d.releaseHostdevs(name, &s.rec)
	}
	return inst, err
}

// launch is run once the host's devices are the domain's.
func (s *starter) launch(ctx context.Context, req driver.Request, resources []Resource) (*instance, error) {
	name := req.Live.Name()
	o, err := s.d.open(s.cfg, resources, s.rec.Dir)
	if err != nil {
		return nil, errors.Join(err, s.d.clean(&s.rec))
	}
	defer o.close()
	o.addChains(&s.cfg)
	if req.Incoming != nil {
		if err := s.incoming(o, req.Incoming); err != nil {
			return nil, errors.Join(err, s.d.discard(o), s.d.clean(&s.rec))
		}
	}
	s.rec.Images, s.rec.Taps, s.rec.Sockets, s.rec.Runtime = o.images, o.taps, o.sockets, o.runtime
	config, err := s.spawn(o, name)
	if err != nil {
		return nil, errors.Join(err, s.d.clean(&s.rec))
	}
	defer config.Close()
	if err := s.record(req); err != nil {
		return nil, s.abandon(err)
	}
	if err := s.configure(ctx, config); err != nil {
		return nil, s.abandon(err)
	}
	inst := newInstance(s.d, name, req.Live, s.rec, s.proc)
	inst.restoring = req.Incoming != nil
	s.d.register(name, &s.rec)
	if err := inst.connectFirst(ctx); err != nil {
		select { // an engine that fails closes its monitor before it writes why
		case <-s.proc.Done():
		case <-time.After(lastWords):
		}
		inst.discard()
		return nil, s.abandon(err)
	}
	return inst, nil
}

// abandon ends the engine and returns err, with the engine's own words if it had any.
func (s *starter) abandon(err error) error {
	ended := s.proc.Ended()
	if kerr := s.proc.End(); kerr != nil {
		s.d.log.Error("cannot end an engine that did not start", "err", kerr)
	}
	if exit := s.rec.exit(s.proc.ExitStatus()); ended || exit.Reason == driver.ExitError {
		err = virterr.New(virterr.InternalError, "the engine ended during start: %s", exit.Detail)
	}
	if cerr := s.d.clean(&s.rec); cerr != nil {
		s.d.log.Error("cannot clean up after an engine that did not start", "err", cerr)
	}
	return err
}

// lastWords is how long an engine whose monitor is gone has to leave by itself.
const lastWords = 2 * time.Second

// freshDir makes the directory of a domain's run, without what an earlier run may have left.
func freshDir(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return virterr.New(virterr.SystemError, "cannot empty directory '%s' for the engine: %w", dir, err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return virterr.New(virterr.SystemError, "cannot make directory '%s' for the engine: %w", dir, err)
	}
	return nil
}

// spawn starts the process. It does nothing before it has read its Config from the returned pipe.
func (s *starter) spawn(o *opened, name string) (*os.File, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, virterr.New(virterr.SystemError, "cannot open %s: %w", os.DevNull, err)
	}
	defer null.Close()
	log, err := s.openLog(name)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	configR, configW, err := os.Pipe()
	if err != nil {
		return nil, virterr.New(virterr.SystemError, "cannot make a pipe for the engine: %w", err)
	}
	defer configR.Close()
	cmd := supervise.Command{
		Path: s.d.cfg.Engine, UID: s.rec.UID, GID: s.rec.UID,
		// The engine ignores the last two: they tell people that look at the process list whose engine it is.
		Args:  []string{fmt.Sprintf("--%s=%d", hypervisor.ConfigFDFlag, hypervisor.FirstFile+len(o.files)), name, s.cfg.UUID},
		Files: append(append([]*os.File{null, log, log}, o.files...), configR),
	}
	if s.rec.UID >= 0 {
		cmd.Namespaces = unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWPID
	}
	cmd.Limits = s.limits(len(cmd.Files))
	if err := s.start(cmd, filepath.Base(s.rec.Dir)); err != nil {
		configW.Close()
		return nil, err
	}
	return configW, nil
}

// start starts the process in a cgroup of its own, if there can be one.
func (s *starter) start(cmd supervise.Command, cgroup string) error {
	var err error
	if s.d.cgroups != nil {
		if s.rec.Cgroup, cmd.Cgroup, err = s.d.cgroups.New(cgroup); err != nil {
			s.warn("the engine runs without a cgroup of its own: " + err.Error())
		} else {
			defer cmd.Cgroup.Close()
		}
	}
	s.proc, err = supervise.Start(cmd)
	if err != nil && cmd.Cgroup != nil { // a kernel before 5.7, or a cgroup that takes no processes
		s.warn("the engine runs without a cgroup of its own: " + err.Error())
		rmErr := supervise.RemoveCgroup(s.rec.Cgroup)
		s.rec.Cgroup, cmd.Cgroup = "", nil
		if s.proc, err = supervise.Start(cmd); err == nil && rmErr != nil {
			s.d.log.Warn("an unused cgroup stays", "err", rmErr)
		}
	}
	if err != nil {
		return virterr.New(virterr.SystemError, "cannot start the engine %s: %w", s.d.cfg.Engine, err)
	}
	s.rec.PID, s.rec.StartTime = s.proc.PID, s.proc.StartTime
	return nil
}

func (s *starter) warn(text string) {
	s.rec.Warnings = append(append([]string(nil), s.rec.Warnings...), text)
	s.d.log.Warn(text)
}

// ringMemory is what io_uring's rings may lock where the kernel counts them (before 5.12), in bytes.
const ringMemory = 64 << 20

// What devices need that come to a running machine: descriptors of a network device with 16 queue pairs on vhost, and the
// places that the pc machine has.
const (
	hotplugFiles = 160
	pcSlots      = 30
)

// hostdevMemory is what VFIO may lock beyond guest RAM, in bytes, as libvirt has it.
const hostdevMemory = 1 << 30

// hostdevFiles are the descriptors that one host device can need: an eventfd for each MSI-X vector, and some.
const hostdevFiles = 2048 + 64

// limits are the engine's resource limits: no core file with guest memory in it, no more descriptors than it can need.
func (s *starter) limits(files int) []supervise.Limit {
	locked := uint64(ringMemory)
	if len(s.cfg.Hostdevs) > 0 { // VFIO counts all of guest RAM
		locked += s.cfg.Memory.Size + hostdevMemory
	}
	if s.cfg.Memory.Backing.Locked {
		locked = unix.RLIM_INFINITY
	}
	list := []supervise.Limit{
		{Resource: unix.RLIMIT_CORE, Value: 0},
		// Each queue has an eventfd or two, each device an irqfd for each of its vectors.
		{Resource: unix.RLIMIT_NOFILE, Value: uint64(files + 64*(len(s.cfg.Disks)+len(s.cfg.NICs)+len(s.cfg.Consoles)+4) +
			hotplugFiles*max(len(s.cfg.RootPorts), pcSlots) + hostdevFiles*len(s.cfg.Hostdevs))},
	}
	if os.Geteuid() == 0 {
		list = append(list, supervise.Limit{Resource: unix.RLIMIT_MEMLOCK, Value: locked})
	}
	return list
}

// maxLog is the size in bytes above which an engine's log is put aside at the next start.
const maxLog = 1 << 20

// openLog opens the log that takes the engine's standard error.
func (s *starter) openLog(name string) (*os.File, error) {
	s.rec.LogFile = filepath.Join(s.d.cfg.LogDir, name+".log")
	if st, err := os.Stat(s.rec.LogFile); err == nil && st.Size() > maxLog {
		if err := os.Rename(s.rec.LogFile, s.rec.LogFile+".1"); err != nil {
			s.d.log.Warn("cannot put an engine's log aside", "path", s.rec.LogFile, "err", err)
		}
	}
	log, err := os.OpenFile(s.rec.LogFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, openError("engine log", s.rec.LogFile, err)
	}
	fmt.Fprintf(log, "%s starting up domain %s (%s)\n", time.Now().UTC().Format(time.RFC3339), name, s.cfg.UUID)
	if s.rec.LogOffset, err = log.Seek(0, 2); err != nil {
		s.rec.LogOffset = 0
	}
	return log, nil
}

// record makes the engine known to whoever comes after us.
func (s *starter) record(req driver.Request) error {
	text, err := s.rec.encode()
	if err != nil {
		return err
	}
	return req.Record(text)
}

// configure gives the engine its Config, which lets it go.
func (s *starter) configure(ctx context.Context, config *os.File) error {
	text, err := json.Marshal(s.cfg)
	if err != nil {
		return virterr.New(virterr.InternalError, "cannot encode the engine's configuration: %w", err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := config.SetWriteDeadline(deadline); err != nil {
			return virterr.New(virterr.InternalError, "cannot bound the engine's start: %w", err)
		}
	}
	if _, err := config.Write(text); err != nil {
		return virterr.New(virterr.InternalError, "the engine does not read its configuration: %w", err)
	}
	return config.Close()
}

// checkMemory refuses a domain whose RAM this host cannot give now.
func checkMemory(cfg hypervisor.Config) error {
	if cfg.Memory.Backing.Kind == memory.HugeTLB {
		return checkHugePages(cfg)
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return nil
	}
	host := (uint64(info.Totalram) + uint64(info.Totalswap)) * uint64(info.Unit)
	if cfg.Memory.Size > host {
		return virterr.New(virterr.NoMemory, "cannot set up guest memory: domain '%s' has %d MiB and the whole host %d MiB of memory and swap",
			cfg.Name, cfg.Memory.Size>>20, host>>20)
	}
	return nil
}

func checkHugePages(cfg hypervisor.Config) error {
	page := cfg.Memory.Backing.HugePage
	if page == 0 {
		page = 2 << 20
	}
	dir := fmt.Sprintf("/sys/kernel/mm/hugepages/hugepages-%dkB", page>>10)
	free, err := readNumber(dir + "/free_hugepages")
	if err != nil {
		return virterr.New(virterr.ConfigUnsupported, "domain '%s' wants huge pages of %d KiB, which this host does not have", cfg.Name, page>>10)
	}
	need := (cfg.Memory.Size + page - 1) / page
	if reserved, err := readNumber(dir + "/resv_hugepages"); err == nil && reserved < free {
		free -= reserved
	}
	if need > free {
		return virterr.New(virterr.NoMemory, "cannot set up guest memory: domain '%s' needs %d huge pages of %d KiB and %d are free; write a larger number to %s/nr_hugepages",
			cfg.Name, need, page>>10, free, dir)
	}
	return nil
}

func readNumber(path string) (n uint64, err error) {
	text, err := os.ReadFile(path)
	if err == nil {
		_, err = fmt.Sscan(string(text), &n)
	}
	return n, err
}
