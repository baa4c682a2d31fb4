package e2e

import (
	"fmt"
	"strings"

	"virtd/lab/labtest"
)

// guest describes a domain of these tests; xml turns it into what a user would write.
type guest struct {
	name     string
	kernel   labtest.GuestKernel
	initrd   string // default kernel.Initrd
	memory   int    // MiB, default 256
	machine  string // default q35
	vcpus    int    // default 1
	maxVCPUs int    // default vcpus
	run      string // command in the guest; empty ends at a shell
	args     string // further kernel arguments
	elements string // elements of the domain, such as on_crash
	devices  string // further devices
	console  string // serial device; default a file that host.output reads
}

func (g guest) xml(h *host) string {
	if g.initrd == "" {
		g.initrd = g.kernel.Initrd
	}
	if g.memory == 0 {
		g.memory = 256
	}
	if g.vcpus == 0 {
		g.vcpus = 1
	}
	if g.machine == "" {
		g.machine = "q35"
	}
	g.maxVCPUs = max(g.maxVCPUs, g.vcpus)
	cmdline := labtest.QuietCmdline + " " + g.args
	if g.run != "" {
		cmdline += fmt.Sprintf(` lab.run="%s"`, g.run)
	}
	if g.console == "" {
		g.console = fmt.Sprintf("<serial type='file'><source path='%s'/></serial>", h.path(g.name+".console"))
	}
	return fmt.Sprintf(`<domain type='kvm'>
  <name>%s</name>
  <memory unit='MiB'>%d</memory>
  <vcpu current='%d'>%d</vcpu>
  <os>
    <type arch='x86_64' machine='%s'>hvm</type>
    <kernel>%s</kernel>
    <initrd>%s</initrd>
    <cmdline>%s</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='host-passthrough'/>
  %s
  <devices>
    %s
    %s
  </devices>
</domain>
`, g.name, g.memory, g.vcpus, g.maxVCPUs, g.machine, g.kernel.Image, g.initrd, escape(cmdline), g.elements, g.console, g.devices)
}

// escape makes text safe inside an element.
func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}

// disk is a virtio disk on a raw image.
func disk(path, target, more string) string {
	return fmt.Sprintf("<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='%s'/><target dev='%s' bus='virtio'/>%s</disk>", path, target, more)
}

// nic is a virtio interface on a bridge.
func nic(bridge, driver string, queues int) string {
	return fmt.Sprintf("<interface type='bridge'><source bridge='%s'/><model type='virtio'/><driver name='%s' queues='%d'/></interface>", bridge, driver, queues)
}
