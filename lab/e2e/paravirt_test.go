package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// Bits of EAX of CPUID leaf 0x40000001, Linux Documentation/virt/kvm/x86/cpuid.rst.
const (
	kvmClock       = 1<<0 | 1<<3
	kvmClockStable = 1 << 24
	kvmAsyncPF     = 1<<4 | 1<<14
	kvmStealTime   = 1 << 5
	kvmPVEOI       = 1 << 6
	kvmPVUnhalt    = 1 << 7
	kvmPVTLBFlush  = 1 << 9
	kvmPVIPI       = 1 << 11
	kvmPollControl = 1 << 12
)

// The paravirtual features of KVM are seen from inside the guest, and each can be switched off.
func TestLabParavirtualFeatures(t *testing.T) {
	labtest.Need(t, labtest.KVM)
	h := startHost(t)
	const all = uint32(kvmClock | kvmClockStable | kvmAsyncPF | kvmStealTime | kvmPVEOI | kvmPVUnhalt | kvmPVTLBFlush | kvmPVIPI | kvmPollControl)
	features := func(names ...string) (xml string) {
		for _, n := range names {
			xml += "<feature policy='disable' name='" + n + "'/>"
		}
		return "<cpu mode='host-passthrough'>" + xml + "</cpu>"
	}
	k := labtest.Kernel("6.1")
	initrd := labtest.AppendFiles(t, k.Initrd, map[string]string{
		"bin/kvmcpuid": cpuidProgram(0x40000000, 0x40000001),
		"cmd":          "echo \"cpuid $(kvmcpuid | od -An -v -t x4 | tr -d '\\n')\"; dmesg | grep -iE 'kvm|pv|clocksource' | head -60\n",
	})
	for _, c := range []struct {
		name, cpu, features, clock string
		present, absent            uint32
		says, silent               []string // in the kernel's log
	}{
		{name: "everything", cpu: features(), present: all,
			says: []string{"kvm-clock: Using msrs", "setup PV IPIs", "KVM setup pv remote TLB flush", "PV spinlocks enabled"}},
		{name: "nothing", cpu: features("kvmclock", "kvm-asyncpf", "kvm-steal-time", "kvm-pv-eoi", "kvm-pv-unhalt", "kvm-pv-tlb-flush", "kvm-pv-ipi", "kvm-poll-control"),
			absent: all, silent: []string{"Using msrs", "setup PV IPIs", "remote TLB flush", "setup async PF", "stealtime: cpu 0", "PV spinlocks enabled"}},
		{name: "elements", cpu: features(), features: "<pvspinlock state='off'/><kvm><poll-control state='off'/><pv-ipi state='off'/></kvm>",
			clock:  "<clock offset='utc'><timer name='kvmclock' present='no'/></clock>",
			absent: kvmPVUnhalt | kvmPollControl | kvmPVIPI | kvmClock, present: all &^ (kvmPVUnhalt | kvmPollControl | kvmPVIPI | kvmClock | kvmClockStable)},
		{name: "hidden", cpu: features(), features: "<kvm><hidden state='on'/></kvm>", absent: 0xffffffff, silent: []string{"Hypervisor detected: KVM"}},
	} {
		if testing.Short() && c.name != "everything" && c.name != "elements" {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			h.t = t
			xml := guest{name: "pv" + c.name, kernel: k, initrd: initrd, vcpus: 2, memory: 192, elements: c.clock}.xml(h)
			xml = strings.Replace(xml, "<cpu mode='host-passthrough'/>", c.cpu, 1)
			xml = strings.Replace(xml, "<acpi/><apic/>", "<acpi/><apic/>"+c.features, 1)
			name := h.defineXML("pv"+c.name, xml)
			h.vctl("start", name)
			h.finish(name, 150*time.Second)
			out := h.output(name)
			words := regexp.MustCompile(`cpuid\s+((?:[0-9a-f]{8}\s*){8})`).FindStringSubmatch(out)
			if words == nil {
				t.Fatalf("the guest does not tell its CPUID:\n%s", tail(out, 2000))
			}
			leaf := strings.Fields(words[1])
			got := uint32(0)
			if leaf[1] == "4b4d564b" { // KVMK
				n, err := strconv.ParseUint(leaf[4], 16, 32)
				if err != nil {
					t.Fatal(err)
				}
				got = uint32(n)
			} else if c.name != "hidden" {
				t.Errorf("no KVM signature: %v", leaf)
			}
			if got&c.present != c.present || got&c.absent != 0 {
				t.Errorf("features %#x: missing %#x, too many %#x", got, c.present&^got, got&c.absent)
			}
			for _, want := range c.says {
				if !strings.Contains(out, want) {
					t.Errorf("the guest's kernel does not say %q:\n%s", want, tail(out, 3000))
				}
			}
			for _, never := range c.silent {
				if strings.Contains(out, never) {
					t.Errorf("the guest's kernel says %q:\n%s", never, tail(out, 3000))
				}
			}
			h.vctl("undefine", name)
		})
	}
	h.t = t
}

// cpuidProgram is a static x86-64 Linux program that writes EAX, EBX, ECX and EDX of each leaf to its output.
func cpuidProgram(leaves ...uint32) string {
	const base, out = 0x400000, 0x400800
	var code bytes.Buffer
	emit := func(b ...byte) { code.Write(b) }
	imm := func(v uint32) { code.Write(binary.LittleEndian.AppendUint32(nil, v)) }
	at := uint32(out)
	for _, leaf := range leaves {
		emit(0xb8) // mov eax, leaf
		imm(leaf)
		emit(0x31, 0xc9, 0x0f, 0xa2) // xor ecx, ecx; cpuid
		for _, reg := range []byte{0x04, 0x1c, 0x0c, 0x14} {
			emit(0x89, reg, 0x25) // mov [at], eax; ebx; ecx; edx
			imm(at)
			at += 4
		}
	}
	emit(0xb8)
	imm(1) // write
	emit(0xbf)
	imm(1) // to standard output
	emit(0xbe)
	imm(out)
	emit(0xba)
	imm(at - out)
	emit(0x0f, 0x05, 0xb8)
	imm(60) // exit
	emit(0x31, 0xff, 0x0f, 0x05)

	// ELF-64 header and one program header: everything readable, writable and executable at base.
	const headers = 64 + 56
	h := []any{[16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, uint16(2), uint16(62), uint32(1), uint64(base + headers), uint64(64), uint64(0),
		uint32(0), uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(7), uint64(0), uint64(base), uint64(base), uint64(headers + code.Len()), uint64(0x1000), uint64(0x1000)}
	var b bytes.Buffer
	for _, field := range h {
		if err := binary.Write(&b, binary.LittleEndian, field); err != nil {
			panic(fmt.Sprint("a field of fixed size: ", err))
		}
	}
	b.Write(code.Bytes())
	return b.String()
}
