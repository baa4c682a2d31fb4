package kvm

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"virtd/domain"
	"virtd/hypervisor"
	"virtd/hypervisor/cpuid"
	"virtd/virterr"
)

var updatePlans = flag.Bool("update-plans", false, "write the golden plans")

const domainDocuments = "../../xml/testdata/domain/"

// facts is the host that golden plans are made for.
var facts = HostFacts{
	VhostNet: true, Now: time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC), Local: time.FixedZone("X", 2*3600),
	ConsoleLogMax: 2 << 20, Confine: hypervisor.Confine{Seccomp: true, Landlock: true},
}

type planHost struct{}

func (planHost) HostModel() (domain.CPUModel, error) {
	return domain.CPUModel{Name: "Skylake-Client-IBRS", Vendor: "Intel",
		Features: []domain.CPUFeature{{Name: "ssbd", Policy: "require"}, {Name: "mpx", Policy: "disable"}}}, nil
}

// started reads a document of the test data and gives it an id.
func started(t *testing.T, name string) *domain.Definition {
	t.Helper()
	text, err := os.ReadFile(domainDocuments + name + ".xml")
	if err != nil {
		t.Fatal(err)
	}
	return startedFrom(t, string(text))
}

// startedFrom is the definition of a running domain that text defines.
func startedFrom(t *testing.T, text string) *domain.Definition {
	t.Helper()
	def, err := domain.Parse(text, domain.Options{})
	if err != nil {
		t.Fatal(err)
	}
	live, err := def.Start(1, planHost{})
	if err != nil {
		t.Fatal(err)
	}
	volumes := map[string]domain.VolumeSource{}
	for _, v := range live.Volumes() {
		volumes[v.Alias] = domain.VolumeSource{Path: "/pools/" + v.Pool + "/" + v.Volume, Block: v.Pool == "vg"}
	}
	if live, err = live.SetVolumes(volumes); err != nil {
		t.Fatal(err)
	}
	return live
}

func TestPlanGolden(t *testing.T) {
	paths, _ := filepath.Glob(domainDocuments + "*.golden.xml")
	if len(paths) < 60 {
		t.Fatalf("only %d documents", len(paths))
	}
	firmware := 0
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".golden.xml")
		t.Run(name, func(t *testing.T) {
			cfg, res, err := Plan(started(t, name), facts)
			if strings.HasPrefix(name, "firmware") || name == "no-kernel" {
				firmware++
				if !virterr.Is(err, virterr.ConfigUnsupported) || !strings.Contains(err.Error(), "firmware") {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			comparePlan(t, domainDocuments+name+".config.json", cfg, res)
			consistent(t, cfg, res)
		})
	}
	if firmware != 2 {
		t.Errorf("%d documents boot through firmware", firmware)
	}
}

func comparePlan(t *testing.T, path string, cfg hypervisor.Config, res []Resource) {
	t.Helper()
	got, err := json.MarshalIndent(struct {
		Config    hypervisor.Config
		Resources []Resource
	}{cfg, res}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *updatePlans {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (run with -update-plans after checking):\n%s", path, diff)
	}
}

// consistent checks what holds for every plan: each descriptor is given once and used, addresses are unique, and each
// device behind a port has that port.
func consistent(t *testing.T, cfg hypervisor.Config, res []Resource) {
	t.Helper()
	var given []hypervisor.FileName
	for _, r := range res {
		given = append(given, r.Files...)
	}
	if !slices.Equal(given, cfg.Files) {
		t.Errorf("resources give %v, config has %v", given, cfg.Files)
	}
	used := map[hypervisor.FileName]int{cfg.KVM: 1, cfg.Monitor: 1, cfg.ExitRecord: 1, cfg.Boot.Kernel: 1}
	use := func(names ...hypervisor.FileName) {
		for _, n := range names {
			if n != "" {
				used[n]++
			}
		}
	}
	places := map[hypervisor.PCIAddress]string{}
	put := func(id string, a hypervisor.PCIAddress) {
		if places[a] != "" {
			t.Errorf("%s and %s share %v", id, places[a], a)
		}
		places[a] = id
		ported := slices.ContainsFunc(cfg.RootPorts, func(p hypervisor.RootPort) bool { return p.Index == a.Bus })
		if id == "" || a.Bus != 0 && !ported {
			t.Errorf("device %q at %v has no port or no id", id, a)
		}
	}
	use(cfg.Boot.Initrd)
	for _, p := range cfg.RootPorts {
		put(p.ID, p.Address)
	}
	for _, d := range cfg.Disks {
		put(d.ID, d.Address)
		use(d.File)
	}
	for _, n := range cfg.NICs {
		put(n.ID, n.Address)
		use(n.Taps...)
		use(n.Vhosts...)
		use(n.Stream)
		if n.Steering != nil {
			use(n.Steering.Program, n.Steering.Map)
		}
		if n.VhostUser != nil {
			use(n.VhostUser.Socket, n.VhostUser.Listen)
		}
	}
	for _, d := range cfg.VhostUserDisks {
		put(d.ID, d.Address)
		use(d.VhostUser.Socket, d.VhostUser.Listen)
	}
	for _, c := range cfg.Consoles {
		put(c.ID, c.Address)
		use(c.Chardev.File)
		use(c.Chardev.Log...)
	}
	for _, s := range cfg.Serials {
		use(s.Chardev.File)
		use(s.Chardev.Log...)
	}
	use(cfg.VFIO)
	use(cfg.IOMMUFD)
	for _, h := range cfg.Hostdevs {
		put(h.ID, h.Address)
		use(h.Group)
		use(h.Cdev)
		use(h.ROM)
	}
	for _, r := range cfg.RNGs {
		put(r.ID, r.Address)
		use(r.File)
	}
	if cfg.Balloon != nil {
		put(cfg.Balloon.ID, cfg.Balloon.Address)
	}
	for _, f := range cfg.Files {
		if used[f] != 1 {
			t.Errorf("descriptor %s is used %d times", f, used[f])
		}
	}
	if len(used) != len(cfg.Files) {
		t.Errorf("descriptors %v, used %v", cfg.Files, used)
	}
}

// The same definition on a host without vhost-net: userspace where the XML leaves it open, an error where it does not.
func TestPlanWithoutVhost(t *testing.T) {
	poor := facts
	poor.VhostNet = false
	cfg, res, err := Plan(started(t, "interface-bridge"), poor)
	if err != nil || cfg.NICs[0].Driver != "qemu" || len(cfg.NICs[0].Vhosts) != 0 {
		t.Errorf("%v %+v", err, cfg.NICs)
	}
	if slices.ContainsFunc(res, func(r Resource) bool { return r.Kind == ResourceVhost }) {
		t.Error("opens vhost-net all the same")
	}
	_, _, err = Plan(started(t, "interface-vhost"), poor)
	if !virterr.Is(err, virterr.ConfigUnsupported) || !strings.Contains(err.Error(), "vhost-net") {
		t.Errorf("got %v", err)
	}
}

// What another build accepted and this one does not have stops at the plan.
func TestPlanChecksStored(t *testing.T) {
	text, err := os.ReadFile(domainDocuments + "disk-file.golden.xml")
	if err != nil {
		t.Fatal(err)
	}
	future := strings.Replace(string(text), "</devices>", "<tpm model='tpm-crb'/></devices>", 1)
	def, err := domain.Parse(future, domain.Options{Stored: true})
	if err != nil {
		t.Fatal(err)
	}
	live, err := def.Start(1, planHost{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Plan(live, facts); !virterr.Is(err, virterr.ConfigUnsupported) || !strings.Contains(err.Error(), "<tpm>") {
		t.Errorf("got %v", err)
	}
}

// What a root port reserves for devices that come later is planned in bytes. The goldens do not have it, as libvirt's older
// schemas do not.
func TestPlanReserve(t *testing.T) {
	text, err := os.ReadFile(domainDocuments + "hostdev-slot.xml")
	if err != nil {
		t.Fatal(err)
	}
	port := "<controller type='pci' index='3' model='pcie-root-port'><target memReserve='65536'/></controller>"
	def, err := domain.Parse(strings.Replace(string(text), "<interface", port+"<interface", 1), domain.Options{})
	if err != nil {
		t.Fatal(err)
	}
	live, err := def.Start(1, planHost{})
	if err != nil {
		t.Fatal(err)
	}
	cfg, _, err := Plan(live, facts)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range cfg.RootPorts {
		if want := map[uint8]uint64{3: 64 << 20}[p.Index]; p.Memory != want {
			t.Errorf("port %d reserves %d bytes, want %d", p.Index, p.Memory, want)
		}
	}
}

// A plan depends on nothing but its arguments.
func TestPlanIsPure(t *testing.T) {
	live := started(t, "whole-server")
	before := live.XML(0)
	cfg, res, err := Plan(live, facts)
	if err != nil {
		t.Fatal(err)
	}
	cfg2, res2, _ := Plan(live, facts)
	if diff := cmp.Diff(cfg, cfg2) + cmp.Diff(res, res2); diff != "" || live.XML(0) != before {
		t.Errorf("differs: %s", diff)
	}
}

func TestVCPUPins(t *testing.T) {
	if diff := cmp.Diff(map[int][]int{0: {1}, 1: {0, 2, 3}}, VCPUPins(started(t, "cputune"))); diff != "" {
		t.Error(diff)
	}
	if pins := VCPUPins(started(t, "vcpu-many")); len(pins) != 64 || !slices.Equal(pins[63], []int{0, 1, 3}) {
		t.Error(pins)
	}
}

// What domain writes into definitions without importing the engine is what the engine means.
func TestSeamWithCPUID(t *testing.T) {
	cfg, _, err := Plan(started(t, "minimal-q35"), facts)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, name := range cpuid.DefaultFeatures() {
		want[name] = "require"
	}
	if diff := cmp.Diff(want, cfg.CPU.Features); diff != "" || cfg.CPU.Model != cpuid.DefaultModel {
		t.Errorf("default CPU is %s: %s", cfg.CPU.Model, diff)
	}
	for _, name := range cpuid.ParavirtNames() {
		if !domain.IsParavirtFeature(name) {
			t.Errorf("paravirtual feature %s is not known in domain XML", name)
		}
	}
	if domain.MachineQ35 != hypervisor.MachineQ35 || domain.MachinePC != hypervisor.MachinePC {
		t.Error("machine types differ")
	}
	for _, m := range domain.MachineTypes {
		if got := hypervisor.PlugsCPUs(m.Name); got != m.PlugsVCPUs {
			t.Errorf("%s plugs vCPUs: %v for the engine", m.Name, got)
		}
	}
}

// A device that comes later is planned as it would have been at the start.
func TestPlanDevice(t *testing.T) {
	def := started(t, "whole-server")
	facts := HostFacts{VhostNet: true}
	cfg, all, err := Plan(def, facts)
	if err != nil {
		t.Fatal(err)
	}
	byAlias := map[string][]Resource{}
	for _, r := range all {
		byAlias[r.Alias] = append(byAlias[r.Alias], r)
	}
	check := func(id string, want any, pick func(hypervisor.Attachment) any) {
		t.Helper()
		a, res, err := PlanDevice(def, id, facts)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, pick(a)); d != "" {
			t.Errorf("%s (-start +later):\n%s", id, d)
		}
		if d := cmp.Diff(byAlias[id], res); d != "" {
			t.Errorf("resources of %s (-start +later):\n%s", id, d)
		}
	}
	for i := range cfg.Disks {
		check(cfg.Disks[i].ID, &cfg.Disks[i], func(a hypervisor.Attachment) any { return a.Disk })
	}
	for i := range cfg.NICs {
		check(cfg.NICs[i].ID, &cfg.NICs[i], func(a hypervisor.Attachment) any { return a.NIC })
	}
	for i := range cfg.RNGs {
		check(cfg.RNGs[i].ID, &cfg.RNGs[i], func(a hypervisor.Attachment) any { return a.RNG })
	}
	if _, _, err := PlanDevice(def, "serial0", facts); err == nil {
		t.Error("a serial port can be attached")
	}
}
