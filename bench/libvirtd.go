package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"virtd/bench/ab"
	"virtd/rpc"
)

// The amounts of work of a sample are such that it takes a fraction of a second: the machine's other work then disturbs
// both sides.
const (
	definedDomains  = 2000 // in all rounds: a third by one client after a rest, one by it with the disk at work, one by several
	stateCalls      = 4000 // whatever the number of clients
	listCalls       = 30
	parallelClients = 8
	// settling is what a daemon gets to come to rest: before its memory is looked at, and after changes, whose work in the
	// background counts as theirs and not as the other daemon's disturbance.
	settling = 3 * time.Second
	// waking is how long the disk is kept at work before definitions are timed that are not to come after a rest. That of a
	// virtual machine may take four times as long for each sync of the first 40 to 60 ms after one, which is most of what the
	// faster daemon needs for its definitions.
	waking = 150 * time.Millisecond
)

// benchLibvirtd compares virtd with stock libvirtd as daemons: definitions, questions, memory. No domain runs. Both are up
// all the time, with the same definitions.
func benchLibvirtd(h host) ([]ab.Result, error) {
	if err := needsDisk(h.out); err != nil {
		return nil, err
	}
	var sides [2]*side
	for i, k := range []kindOfDaemon{virtdDaemon(h.virtd), libvirtdDaemon()} {
		s, err := h.newSide(k)
		if err != nil {
			return nil, err
		}
		defer s.close()
		sides[i] = s
	}
	var all []ab.Result
	for _, part := range []struct {
		rounds   int
		sample   func(*side) ([]float64, error)
		measures []ab.Measure
	}{
		{h.rounds, (*side).idle, []ab.Measure{
			{Name: "memory without domains, PSS", Unit: "MiB", Better: ab.Lower},
		}},
		{h.rounds, (*side).define, []ab.Measure{
			{Name: "define, one client", Unit: "1/s", Better: ab.Higher, RatioBound: 3},
			{Name: "define, one client, server CPU", Unit: "us", Better: ab.Lower},
			{Name: "define, one client, disk at work", Unit: "1/s", Better: ab.Higher, RatioBound: 3},
			{Name: "define, one client, disk at work, server CPU", Unit: "us", Better: ab.Lower},
			{Name: "define, 8 clients", Unit: "1/s", Better: ab.Higher},
			{Name: "define, 8 clients, server CPU", Unit: "us", Better: ab.Lower},
		}},
		{1, (*side).memory, []ab.Measure{
			{Name: "memory after 2,000 definitions, PSS", Unit: "MiB", Better: ab.Lower, RatioBound: 0.5},
			{Name: "memory after 2,000 definitions, private dirty", Unit: "MiB", Better: ab.Lower, RatioBound: 0.5},
		}},
		{h.rounds, (*side).states, []ab.Measure{
			{Name: "DOMAIN_GET_STATE, one client", Unit: "1/s", Better: ab.Higher, RatioBound: 1.5},
			{Name: "DOMAIN_GET_STATE, one client, server CPU", Unit: "us", Better: ab.Lower, RatioBound: 0.5},
			{Name: "DOMAIN_GET_STATE, 8 clients", Unit: "1/s", Better: ab.Higher, RatioBound: 3},
			{Name: "DOMAIN_GET_STATE, 8 clients, server CPU", Unit: "us", Better: ab.Lower, RatioBound: 0.5},
		}},
		{h.rounds, (*side).list, []ab.Measure{
			{Name: "CONNECT_LIST_ALL_DOMAINS, 2,000 domains", Unit: "us", Better: ab.Lower, RatioBound: 0.333},
			{Name: "CONNECT_LIST_ALL_DOMAINS, 2,000 domains, server CPU", Unit: "us", Better: ab.Lower, RatioBound: 0.333},
		}},
		{h.rounds, (*side).virshList, []ab.Measure{
			{Name: "virsh list --all, 2,000 domains", Unit: "ms", Better: ab.Lower},
			{Name: "virsh list --all, 2,000 domains, server CPU", Unit: "ms", Better: ab.Lower, RatioBound: 0.333},
		}},
		{h.rounds, (*side).restarted, []ab.Measure{
			{Name: "memory with 2,000 domains, PSS", Unit: "MiB", Better: ab.Lower, RatioBound: 0.5},
			{Name: "memory with 2,000 domains, private dirty", Unit: "MiB", Better: ab.Lower, RatioBound: 0.5},
		}},
		{h.rounds, (*side).undefine, []ab.Measure{
			{Name: "undefine, one client", Unit: "1/s", Better: ab.Higher},
			{Name: "undefine, one client, server CPU", Unit: "us", Better: ab.Lower},
		}},
	} {
		sampler := func(s *side) ab.Sampler {
			return func() ([]float64, error) { return part.sample(s) }
		}
		r, err := ab.Compare(part.rounds, part.measures, sampler(sides[0]), sampler(sides[1]))
		if err != nil {
			return nil, err
		}
		all = append(all, r...)
	}
	return all, nil
}

// A side is one of the two daemons with what it was told.
type side struct {
	kind    kindOfDaemon
	root    string // the tree it runs in
	scratch string
	daemon  *daemon
	socket  string
	domains []libvirt.Domain // those that are defined, or will be
	defined int              // how many of them are
	batch   int              // how many are defined, and later undefined, in a round
}

func (h host) newSide(k kindOfDaemon) (*side, error) {
	scratch, err := os.MkdirTemp(h.out, k.name+"-")
	if err != nil {
		return nil, err
	}
	s := &side{kind: k, root: h.libvirtd, scratch: scratch, socket: filepath.Join(scratch, "run", k.socket),
		domains: make([]libvirt.Domain, definedDomains), batch: (definedDomains + h.rounds - 1) / h.rounds}
	for i := range s.domains {
		s.domains[i] = libvirt.Domain{Name: fmt.Sprintf("bench-%04d", i), ID: -1,
			UUID: libvirt.UUID(uuid.NewSHA1(uuid.Nil, fmt.Appendf(nil, "bench-%d", i)))}
	}
	if err := s.start(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// start starts the daemon, again if it runs.
func (s *side) start() (err error) {
	s.stop()
	s.daemon, err = s.kind.start(s.root, s.scratch)
	return err
}

func (s *side) stop() {
	if s.daemon != nil {
		s.daemon.stop()
		s.daemon = nil
	}
}

func (s *side) close() {
	s.stop()
	_ = os.RemoveAll(s.scratch)
}

// idle is a daemon after its start, which knows no domain.
func (s *side) idle() ([]float64, error) {
	if err := s.start(); err != nil {
		return nil, err
	}
	m, err := s.memory()
	return m[:1], err
}

// memory is what the daemon has when it rests.
func (s *side) memory() ([]float64, error) {
	time.Sleep(settling)
	pss, dirty, err := s.daemon.memory()
	return []float64{pss, dirty}, err
}

// restarted is a daemon that found its definitions on disk and has answered questions since.
func (s *side) restarted() ([]float64, error) {
	if err := s.start(); err != nil {
		return nil, err
	}
	for _, work := range []func() ([]float64, error){s.list, s.states} {
		if _, err := work(); err != nil {
			return nil, err
		}
	}
	return s.memory()
}

// timed runs work and returns how long it took and how much processor time the daemon used meanwhile and in the rest behind
// it.
func (s *side) timed(rest time.Duration, work func() error) (took, cpu time.Duration, err error) {
	before, err := s.daemon.cpu()
	if err != nil {
		return 0, 0, err
	}
	from := time.Now()
	if err := work(); err != nil {
		return 0, 0, fmt.Errorf("%w; the daemon says: %s", err, brief(s.daemon.log.Bytes()))
	}
	took = time.Since(from)
	time.Sleep(rest)
	after, err := s.daemon.cpu()
	return took, after - before, err
}

// clients runs work with each of n connections at once. The connections are made before the time is taken.
func (s *side) clients(n int, rest time.Duration, work func(client int, c *caller) error) (took, cpu time.Duration, err error) {
	callers := make([]*caller, n)
	for i := range callers {
		if callers[i], err = dial(s.socket); err != nil {
			return 0, 0, err
		}
		defer callers[i].close()
	}
	return s.timed(rest, func() error {
		var all sync.WaitGroup
		errs := make([]error, n)
		for i, c := range callers {
			all.Go(func() { errs[i] = work(i, c) })
		}
		all.Wait()
		for _, err := range errs {
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// define makes a part of the domains: a third of it by one client after a rest, then with the disk at work already, the last by
// several.
func (s *side) define() ([]float64, error) {
	from, to := s.defined, min(s.defined+s.batch, definedDomains)
	s.defined = to
	var values []float64
	one, two := from+(to-from)/3, from+2*(to-from)/3
	for _, part := range []struct {
		clients, from, to int
		awake             bool
	}{{1, from, one, false}, {1, one, two, true}, {parallelClients, two, to, false}} {
		if part.awake {
			if err := s.wakeDisk(); err != nil {
				return nil, err
			}
		}
		took, cpu, err := s.clients(part.clients, settling, func(client int, c *caller) error {
			for i := part.from + client; i < part.to; i += part.clients {
				args := libvirt.DomainDefineXMLFlagsArgs{XML: s.document(s.domains[i])}
				if err := c.call(rpc.ProcDomainDefineXMLFlags, &args, nil); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		n := float64(part.to - part.from)
		values = append(values, n/took.Seconds(), micro(cpu)/n)
	}
	return values, nil
}

// wakeDisk has the disk write what it is told to, until it does not rest any more.
func (s *side) wakeDisk() error {
	f, err := os.CreateTemp(s.scratch, "wake-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	block := make([]byte, 4096)
	for from := time.Now(); time.Since(from) < waking; {
		if _, err := f.WriteAt(block, 0); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// undefine takes a part away again.
func (s *side) undefine() ([]float64, error) {
	from, to := max(0, s.defined-s.batch), s.defined
	s.defined = from
	took, cpu, err := s.clients(1, settling, func(_ int, c *caller) error {
		for _, dom := range s.domains[from:to] {
			if err := c.call(rpc.ProcDomainUndefineFlags, &libvirt.DomainUndefineFlagsArgs{Dom: dom}, nil); err != nil {
				return err
			}
		}
		return nil
	})
	n := float64(to - from)
	return []float64{n / took.Seconds(), micro(cpu) / n}, err
}

// document is a small guest of the kind that people define.
func (s *side) document(dom libvirt.Domain) string {
	return fmt.Sprintf(`<domain type='%[1]s'>
  <name>%[2]s</name>
  <uuid>%[3]s</uuid>
  <metadata><app:about xmlns:app='https://example.org/about'>made for %[2]s</app:about></metadata>
  <memory unit='MiB'>512</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><kernel>/var/lib/kernels/vmlinuz</kernel><cmdline>console=ttyS0</cmdline></os>
  <features><acpi/><apic/></features>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='/var/lib/libvirt/images/%[2]s.img'/><target dev='vda' bus='virtio'/>
    </disk>
    <interface type='bridge'><source bridge='br0'/><model type='virtio'/></interface>
    <console type='pty'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>`, s.kind.domain, dom.Name, uuid.UUID(dom.UUID))
}

// states asks for domains' states, each call about another one.
func (s *side) states() ([]float64, error) {
	var values []float64
	for _, n := range []int{1, parallelClients} {
		took, cpu, err := s.clients(n, 0, func(client int, c *caller) error {
			var args rpc.Raw
			for i := client; i < stateCalls; i += n {
				var err error
				if args, err = rpc.Marshal(args[:0], &libvirt.DomainGetStateArgs{Dom: s.domains[i%definedDomains]}); err != nil {
					return err
				}
				if err := c.call(rpc.ProcDomainGetState, args, nil); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		values = append(values, stateCalls/took.Seconds(), micro(cpu)/stateCalls)
	}
	return values, nil
}

// list asks for all domains at once. The client does not decode the answers.
func (s *side) list() ([]float64, error) {
	args := libvirt.ConnectListAllDomainsArgs{NeedResults: 1}
	took, cpu, err := s.clients(1, 0, func(_ int, c *caller) error {
		for range listCalls {
			if err := c.call(rpc.ProcConnectListAllDomains, &args, nil); err != nil {
				return err
			}
		}
		return nil
	})
	return []float64{micro(took) / listCalls, micro(cpu) / listCalls}, err
}

// virshList is what people type: one list, and a question about each domain.
func (s *side) virshList() ([]float64, error) {
	var out []byte
	took, cpu, err := s.timed(0, func() (err error) {
		out, err = exec.Command("virsh", "-c", "qemu:///system?socket="+s.socket, "list", "--all").CombinedOutput()
		if err != nil {
			return fmt.Errorf("virsh list --all: %w: %s", err, brief(out))
		}
		return nil
	})
	if n := strings.Count(string(out), "shut off"); err == nil && n != definedDomains {
		err = fmt.Errorf("virsh lists %d domains, not %d", n, definedDomains)
	}
	return []float64{micro(took) / 1e3, micro(cpu) / 1e3}, err
}

func micro(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
