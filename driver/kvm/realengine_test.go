package kvm_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"virtd/domain"
	"virtd/domain/manager"
)

// Guests written for the purpose: 32-bit code that runs from 1 MiB without paging, which every KVM can run. Powering off
// is writing S5 to the PM1 control register (port 0x604).
const (
	// Prints "hi" on the serial port and powers off.
	codeHello = "66baf803b068eeb069ee66ba040666b8003c66eff4ebfd"
	// Counts its starts in CMOS byte 0x40, prints the count, and resets until it is 3; then powers off.
	codeReboot = "b040e670e471fec088c3e671043066baf803ee80fb03740966baf90cb006eeebfe66ba040666b8003c66eff4ebfd"
	// Waits for the power button's status bit, then powers off.
	codeButton = "66ba000666ed66a9000174f466ba040666b8003c66eff4ebfd"
	// Echoes the serial port until a "q", then powers off.
	codeEcho = "ff050090000066bafd03eca80174f166baf803ecee3c7175e766ba040666b8003c66eff4ebfd"
	// Halts with interrupts off, which nothing wakes.
	codeHalt = "faf4ebfd"
	// Writes 1 to the pvpanic port, then spins.
	codePanic = "66ba0505b001eeebfe"
)

// kernel wraps code as an ELF kernel with a PVH note.
func kernel(t *testing.T, code string) []byte {
	t.Helper()
	text, err := hex.DecodeString(code)
	if err != nil {
		t.Fatal(err)
	}
	const base, headers = 0x100000, 64 + 2*56
	var b bytes.Buffer
	w := func(v any) { binary.Write(&b, binary.LittleEndian, v) }
	note := append([]byte{4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, 'X', 'e', 'n', 0}, 0, 0, 0x10, 0) // entry 0x100000
	b.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	w([]uint16{2, 62})
	w(uint32(1))
	w([]uint64{base, 64, 0})
	w(uint32(0))
	w([]uint16{64, 56, 2, 64, 0, 0})
	segment := func(kind uint32, off, addr, size uint64) {
		w([]uint32{kind, 7})
		w([]uint64{off, addr, addr, size, size, 4})
	}
	segment(1, headers+uint64(len(note)), base, uint64(len(text)))
	segment(4, headers, 0, uint64(len(note)))
	b.Write(note)
	b.Write(text)
	return b.Bytes()
}

// buildEngine builds virtd-vmm once for all tests, into a directory that the package's TestMain removes. In the lab, which
// has no compiler, it was built before.
var buildEngine = sync.OnceValues(func() (string, error) {
	if built := filepath.Join(os.Getenv("VIRTD_LAB_BIN"), "virtd-vmm"); filepath.IsAbs(built) {
		return built, nil
	}
	dir, err := os.MkdirTemp("", "virtd-vmm")
	if err != nil {
		return "", err
	}
	builtDir = dir
	cmd := exec.Command("go", "build", "-o", dir, "virtd/cmd/virtd-vmm")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	return filepath.Join(dir, "virtd-vmm"), cmd.Run()
})

var builtDir string

// newRealHost is a host whose engines are the real ones.
func newRealHost(t *testing.T) *host {
	t.Helper()
	engine, err := buildEngine()
	if err != nil {
		t.Fatal(err)
	}
	return newHostWith(t, engine)
}

// guest defines a domain that runs code on the real engine.
func (h *host) guest(name, code, more string) *manager.Domain {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, "vmlinuz"), kernel(h.t, code), 0o600); err != nil {
		h.t.Fatal(err)
	}
	xml := `<domain type='kvm'><name>` + name + `</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><kernel>` + h.dir + `/vmlinuz</kernel></os>
  <features><acpi/><apic/></features><cpu mode='host-passthrough'/>` + more + `
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='` + h.dir + `/disk.raw'/><target dev='vda' bus='virtio'/></disk>
    <serial type='pty'><log file='` + h.dir + `/console.log' append='on'/></serial>
    <memballoon model='virtio'/><panic model='isa'/>
  </devices></domain>`
	d, err := h.m.Define(bg, xml, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	return d
}

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func TestRealEngineRunsGuests(t *testing.T) {
	for _, c := range []struct {
		name, code, more string
		state            manager.State
		reason           manager.Reason
		serial           string
		events           string
	}{
		{"power-off", codeHello, "", manager.ShutOff, manager.ShutOffShutdown, "hi", "0,0 4,0 2,0 6,1 5,0"},
		{"reboots", codeReboot, "", manager.ShutOff, manager.ShutOffShutdown, "123", "0,0 4,0 2,0 6,1 5,0"},
		{"reboot destroys", codeReboot, "<on_reboot>destroy</on_reboot>", manager.ShutOff, manager.ShutOffShutdown, "1", "0,0 4,0 2,0 6,1 5,0"},
		{"panic", codePanic, "", manager.ShutOff, manager.ShutOffCrashed, "", "0,0 4,0 2,0 8,0 5,2"},
		{"panic preserved", codePanic, "<on_crash>preserve</on_crash>", manager.Crashed, manager.CrashedPanicked, "", "0,0 4,0 2,0 8,0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newRealHost(t)
			d := h.guest("a", c.code, c.more)
			h.must(d.Start(bg, 0))
			h.waitState(d, c.state, c.reason)
			if out, err := os.ReadFile(h.dir + "/console.log"); err != nil || string(out) != c.serial {
				t.Errorf("console log %q %v, want %q", out, err, c.serial)
			}
			for range 1000 { // events come behind the state
				if got := h.eventText(); len(got) >= len(c.events) {
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			if got := h.eventText(); got != c.events {
				t.Errorf("events %s, want %s", got, c.events)
			}
			if c.state != manager.ShutOff {
				return
			}
			if left := h.leftovers(); len(left) != 0 {
				t.Error("left over:", left)
			}
		})
	}
}

func TestRealEngineLifecycle(t *testing.T) {
	h := newRealHost(t)
	d := h.guest("a", codeButton, "")
	h.must(d.Start(bg, 0))
	h.must(d.Suspend(bg))
	h.must(d.Resume(bg))
	h.must(d.Reboot(bg, 0))
	pid := h.enginePID()
	h.waitState(d, manager.Running, manager.RunningUnpaused)
	h.must(d.Reset(bg))
	h.must(d.SetMemory(bg, 16<<10, manager.AffectLive))
	if _, err := d.MemoryStats(bg); err != nil {
		t.Error(err)
	}
	if v, err := d.VCPUs(bg); err != nil || len(v) != 1 || v[0].Time == 0 {
		t.Error(v, err)
	}
	if s, err := d.BlockStats(bg, "vda"); err != nil || s.Capacity != 1<<20 {
		t.Error(s, err)
	}
	if out, err := d.Monitor(bg, "info balloon", true); err != nil || !strings.HasPrefix(out, "balloon: actual=") {
		t.Errorf("%q %v", out, err)
	}
	if h.enginePID() != pid {
		t.Error("the engine was replaced")
	}
	h.must(d.Shutdown(bg, 0))
	h.waitState(d, manager.ShutOff, manager.ShutOffShutdown)
}

func TestRealEngineOutlivesVirtd(t *testing.T) {
	h := newRealHost(t)
	d := h.guest("a", codeEcho, "")
	h.must(d.Start(bg, 0))
	h.talk(d)
	before, err := d.XML(domain.XMLSecure)
	h.must(err)
	h.m.Close()
	h.open()
	d, err = h.m.LookupByName("a")
	h.must(err)
	h.waitState(d, manager.Running, manager.RunningBooted)
	if after, err := d.XML(domain.XMLSecure); err != nil || after != before {
		t.Error("another document after adoption")
	}
	h.talk(d)
	h.m.Close()
	h.must(unix.Kill(h.enginePID(), unix.SIGKILL))
	time.Sleep(50 * time.Millisecond)
	h.open()
	d, err = h.m.LookupByName("a")
	h.must(err)
	h.waitState(d, manager.ShutOff, manager.ShutOffCrashed)
	if left := h.leftovers(); len(left) != 0 {
		t.Error("left over:", left)
	}
}

func TestRealEngineCyclesLeaveNothing(t *testing.T) {
	cycles := 200
	if testing.Short() {
		cycles = 10
	}
	h := newRealHost(t)
	d := h.guest("a", codeHalt, "")
	h.must(d.Start(bg, 0))
	h.must(d.Destroy(bg, 0))
	before := countFDs(t)
	for range cycles {
		h.must(d.Start(bg, 0))
		h.must(d.Destroy(bg, 0))
	}
	if left := h.leftovers(); len(left) != 0 {
		t.Error("left over:", left)
	}
	if after := countFDs(t); after > before {
		t.Errorf("%d descriptors, were %d", after, before)
	}
}

func (h *host) eventText() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.events, " ")
}

// enginePID returns the one engine's process id.
func (h *host) enginePID() int {
	h.t.Helper()
	pids := h.engines()
	if len(pids) != 1 {
		h.t.Fatal("engines:", pids)
	}
	return pids[0]
}
