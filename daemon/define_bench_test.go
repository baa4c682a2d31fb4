package daemon_test

import (
	"context"
	"fmt"
	"testing"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
)

// BenchmarkDomainDefine is one client that defines guests of the kind that people define, each durable before the answer.
func BenchmarkDomainDefine(b *testing.B) {
	bed := newTestbed(b)
	c := bed.client(b, false)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		xml := fmt.Sprintf(`<domain type='kvm'>
  <name>guest%[1]d</name>
  <metadata><app:about xmlns:app='https://example.org/about'>made for guest%[1]d</app:about></metadata>
  <memory unit='MiB'>512</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><kernel>/var/lib/kernels/vmlinuz</kernel><cmdline>console=ttyS0</cmdline></os>
  <features><acpi/><apic/></features>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='/var/lib/libvirt/images/guest%[1]d.img'/><target dev='vda' bus='virtio'/>
    </disk>
    <interface type='bridge'><source bridge='br0'/><model type='virtio'/></interface>
    <console type='pty'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>`, n)
		n++
		if err := c.Call(context.Background(), rpc.ProgramRemote, rpc.ProcDomainDefineXMLFlags, &libvirt.DomainDefineXMLFlagsArgs{XML: xml}, nil); err != nil {
			b.Fatal(err)
		}
	}
}
