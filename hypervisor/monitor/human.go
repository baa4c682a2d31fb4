package monitor

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
)

type humanCommandEntry struct {
	help string
	run  func(m Machine, arg string) (string, error)
}

var humanCommands map[string]humanCommandEntry

func init() {
	act := func(help string, run func(Machine) error) humanCommandEntry {
		return humanCommandEntry{help, func(m Machine, _ string) (string, error) { return "", run(m) }}
	}
	info := func(help string, run func(Machine) (string, error)) humanCommandEntry {
		return humanCommandEntry{help, func(m Machine, _ string) (string, error) { return run(m) }}
	}
	humanCommands = map[string]humanCommandEntry{
		"info balloon": info("show balloon information", infoBalloon),
		"info status":  info("show the current VM status (running|paused)", infoStatus),
		"info version": info("show the version of the engine", func(Machine) (string, error) {
			return fmt.Sprintf("%d.%d.%dvirtd-vmm\n", VersionMajor, VersionMinor, VersionMicro), nil
		}),
		"info name":        info("show the current VM name", func(m Machine) (string, error) { return m.Name() + "\n", nil }),
		"info uuid":        info("show the current VM UUID", func(m Machine) (string, error) { return m.UUID() + "\n", nil }),
		"info kvm":         info("show KVM information", func(Machine) (string, error) { return "kvm support: enabled\n", nil }),
		"info cpus":        info("show infos for each CPU", infoCPUs),
		"info block":       info("show info of the block devices", infoBlock),
		"info blockstats":  info("show block device statistics", infoBlockStats),
		"info network":     info("show the network state", infoNetwork),
		"info pci":         info("show PCI info", infoPCI),
		"info dirty_rate":  info("show dirty rate information", infoDirtyRate),
		"calc_dirty_rate":  {"[-r|-b] second [pages per GB] -- measure how fast the guest dirties its memory", humanDirtyRate},
		"balloon":          {"target -- request VM to change its memory allocation (in MiB)", humanBalloon},
		"stop":             act("stop emulation", Machine.Pause),
		"cont":             act("resume emulation", Machine.Resume),
		"system_powerdown": act("send system power down event", Machine.PowerDown),
		"system_reset":     act("reset the system", Machine.Reset),
		"quit":             act("quit the engine", func(m Machine) error { m.Quit("quit"); return nil }),
		"help":             info("show the help", humanHelp),
	}
}

// human runs one line and returns what to print; lines end as a terminal wants them.
func human(s *Server, line string) string {
	fields := strings.Fields(line)
	if len(fields) == 0 {
		return ""
	}
	name, args := fields[0], fields[1:]
	if name == "info" && len(args) > 0 {
		name, args = name+" "+args[0], args[1:]
	}
	c, ok := humanCommands[name]
	if !ok {
		return fmt.Sprintf("unknown command: '%s'\r\n", name)
	}
	text, err := c.run(s.machine, strings.Join(args, " "))
	if err != nil {
		text = "Error: " + err.Error() + "\n"
	}
	return strings.ReplaceAll(text, "\n", "\r\n")
}

func humanHelp(Machine) (string, error) {
	var names []string
	for n := range humanCommands {
		names = append(names, n)
	}
	sort.Strings(names)
	var b strings.Builder
	for _, n := range names {
		fmt.Fprintf(&b, "%s -- %s\n", n, humanCommands[n].help)
	}
	return b.String(), nil
}

func infoBalloon(m Machine) (string, error) {
	actual, err := m.Balloon()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("balloon: actual=%d\n", actual>>20), nil
}

func humanBalloon(m Machine, arg string) (string, error) {
	mib, err := strconv.ParseUint(strings.TrimSpace(arg), 10, 40)
	if err != nil || mib == 0 {
		return "", fmt.Errorf("balloon: '%s' is not a number of MiB", arg)
	}
	return "", m.SetBalloon(mib << 20)
}

func infoStatus(m Machine) (string, error) {
	state, reason := m.RunState()
	if state == "crashed" {
		return fmt.Sprintf("VM status: paused (%s)\n", reason), nil
	}
	return fmt.Sprintf("VM status: %s\n", state), nil
}

func infoCPUs(m Machine) (string, error) {
	var b strings.Builder
	for _, c := range m.CPUs() {
		mark := ' '
		if c.Index == 0 {
			mark = '*'
		}
		fmt.Fprintf(&b, "%c CPU #%d: thread_id=%d\n", mark, c.Index, c.ThreadID)
	}
	return b.String(), nil
}

func infoBlock(m Machine) (string, error) {
	var b strings.Builder
	for _, d := range m.Disks() {
		ro := ""
		if d.ReadOnly {
			ro = ", read-only"
		}
		fmt.Fprintf(&b, "%s: %s, %d bytes, %s%s\n", d.ID, d.Format, d.Size, d.Mode, ro)
	}
	return b.String(), nil
}

func infoBlockStats(m Machine) (string, error) {
	var b strings.Builder
	for _, d := range m.Disks() {
		s := d.Stats
		fmt.Fprintf(&b, "%s: rd_bytes=%d wr_bytes=%d rd_operations=%d wr_operations=%d flush_operations=%d wr_total_time_ns=%d rd_total_time_ns=%d flush_total_time_ns=%d\n",
			d.ID, s.ReadBytes, s.WriteBytes, s.ReadOps, s.WriteOps, s.FlushOps, s.WriteNS, s.ReadNS, s.FlushNS)
	}
	return b.String(), nil
}

func infoNetwork(m Machine) (string, error) {
	var b strings.Builder
	for _, n := range m.NICs() {
		link := "up"
		if !n.Up {
			link = "down"
		}
		fmt.Fprintf(&b, "%s: type=nic,model=virtio-net-pci,macaddr=%s,driver=%s,queues=%d,link=%s\n", n.ID, n.MAC, n.Driver, n.Queues, link)
	}
	return b.String(), nil
}

func infoPCI(m Machine) (string, error) {
	var b strings.Builder
	for _, f := range m.PCI() {
		fmt.Fprintf(&b, "%s: class %06x, PCI device %04x:%04x\n", f.Address, f.Class, f.Vendor, f.Device)
	}
	return b.String(), nil
}
