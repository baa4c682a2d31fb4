package manager

import (
	"context"
	"fmt"
	"slices"
	"time"

	"virtd/domain"
	"virtd/driver"
	"virtd/virterr"
)

// VCPUCount returns how many vCPUs the domain has, or with VCPUMaximum can have, live or configured.
func (d *Domain) VCPUCount(flags Affect) (int, error) {
	if err := checkFlags(flags, vcpuFlagsKnown, "qemuDomainGetVcpusFlags"); err != nil {
		return 0, err
	}
	if flags&VCPUGuest != 0 {
		return 0, virterr.New(virterr.ArgumentUnsupported, "QEMU guest agent is not configured")
	}
	if flags&affectBoth == affectBoth {
		return 0, virterr.New(virterr.InvalidArg, "vcpus can be counted in the live or in the persistent configuration, not in both")
	}
	def, err := d.affected(flags)
	if err != nil {
		return 0, err
	}
	if flags&VCPUMaximum != 0 {
		return def.VCPUs(), nil
	}
	return def.CurrentVCPUs(), nil
}

// affected returns the definition that flags ask about, for queries.
func (d *Domain) affected(flags Affect) (*domain.Definition, error) {
	live, _, err := d.targets(flags & affectBoth)
	if err != nil {
		return nil, err
	}
	if live {
		_, def, err := d.engine()
		return def, err
	}
	return d.definition()
}

// VCPUState is what a vCPU does (virVcpuState).
type VCPUState int32

// States of a vCPU.
const (
	VCPUOffline VCPUState = 0
	VCPURunning VCPUState = 1
	VCPUBlocked VCPUState = 2
)

// VCPUInfo is one vCPU of a running domain.
type VCPUInfo struct {
	Number   int
	State    VCPUState
	Time     time.Duration
	CPU      int    // host CPU it ran on last
	Affinity []byte // host CPUs it may run on: bit i%8 of byte i/8 is CPU i
}

// VCPUs returns the vCPUs of a running domain.
func (d *Domain) VCPUs(ctx context.Context) ([]VCPUInfo, error) {
	inst, _, err := d.engine()
	if virterr.Is(err, virterr.OperationInvalid) {
		return nil, virterr.New(virterr.OperationInvalid, "cannot retrieve vcpu information for inactive domain")
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := d.call(ctx)
	defer cancel()
	vcpus, err := inst.VCPUs(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]VCPUInfo, len(vcpus))
	for i, v := range vcpus {
		list[i] = VCPUInfo{Number: v.Number, State: VCPURunning, Time: v.Time, CPU: v.CPU, Affinity: v.Affinity}
	}
	return list, nil
}

// PinVCPU binds a vCPU of a running domain to host CPUs, and with AffectConfig notes it for the next start.
func (d *Domain) PinVCPU(ctx context.Context, vcpu int, cpus []byte, flags Affect) error {
	if err := checkFlags(flags, affectBoth, "qemuDomainPinVcpuFlags"); err != nil {
		return err
	}
	set := cpuList(cpus)
	if set == "" {
		return virterr.New(virterr.InvalidArg, "Empty cpu list for pinning")
	}
	edit := func(def *domain.Definition) (*domain.Definition, error) {
		if vcpu < 0 || vcpu >= def.VCPUs() {
			return nil, virterr.New(virterr.InvalidArg, "vcpu %d is out of range of live cpu count %d", vcpu, def.VCPUs())
		}
		return def.SetVCPUPin(vcpu, set)
	}
	return d.change(ctx, "pin-vcpu", flags, edit, func(ctx context.Context, r *run) error {
		if slices.Contains(r.live.OnlineVCPUs(), vcpu) { // else when it comes
			if err := r.inst.PinVCPU(ctx, vcpu, cpus); err != nil {
				return err
			}
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.emit(Event{Kind: EventTunable, Tunables: []Param{{fmt.Sprintf("cputune.vcpupin%d", vcpu), set}}})
		return nil
	})
}

// PinEmulator binds all threads of a running domain but its vCPUs' to host CPUs, and with AffectConfig notes it for the next
// start.
func (d *Domain) PinEmulator(ctx context.Context, cpus []byte, flags Affect) error {
	if err := checkFlags(flags, affectBoth, "qemuDomainPinEmulator"); err != nil {
		return err
	}
	set := cpuList(cpus)
	if set == "" {
		return virterr.New(virterr.InvalidArg, "Empty cpu list for pinning")
	}
	edit := func(def *domain.Definition) (*domain.Definition, error) { return def.SetEmulatorPin(set) }
	return d.change(ctx, "pin-emulator", flags, edit, func(ctx context.Context, r *run) error {
		if err := r.inst.PinEmulator(ctx, cpus); err != nil {
			return err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.emit(Event{Kind: EventTunable, Tunables: []Param{{"cputune.emulatorpin", set}}})
		return nil
	})
}

// VCPUPins returns the host CPUs of each vCPU that the configuration flags ask about names; nil where it names none.
func (d *Domain) VCPUPins(flags Affect) ([][]byte, error) {
	if err := checkFlags(flags, affectBoth, "qemuDomainGetVcpuPinInfo"); err != nil {
		return nil, err
	}
	def, err := d.affected(flags)
	if err != nil {
		return nil, err
	}
	pins := make([][]byte, def.VCPUs())
	view := def.View()
	if view.VCPU != nil && view.VCPU.CPUSet != "" {
		all, err := parseCPUList(view.VCPU.CPUSet)
		if err != nil {
			return nil, err
		}
		for i := range pins {
			pins[i] = all
		}
	}
	if view.CPUTune == nil {
		return pins, nil
	}
	for _, p := range view.CPUTune.VCPUPin {
		if int(p.VCPU) < len(pins) {
			if pins[p.VCPU], err = parseCPUList(p.CPUSet); err != nil {
				return nil, err
			}
		}
	}
	return pins, nil
}

// CPUTime returns the processor time the domain's engine used since it started.
func (d *Domain) CPUTime() (driver.CPUTime, error) {
	inst, _, err := d.engine()
	if err != nil {
		return driver.CPUTime{}, err
	}
	return inst.CPUTime()
}
