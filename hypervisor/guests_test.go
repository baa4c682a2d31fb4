package hypervisor

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/monitor"
)

// Guests written for the purpose, in 32-bit code that runs from 1 MiB without paging (the PVH start state). Powering off
// is "mov dx,0x604; mov ax,0x3c00; out dx,ax; hlt" (PM1 control, S5).
const (
	// Prints "hi" and powers off.
	guestHello = "66baf803b068eeb069ee66ba040666b8003c66eff4ebfd"
	// Counts its starts in CMOS byte 0x40, prints the count, and resets through CF9 until it is 3; then powers off.
	guestReboot = "b040e670e471fec088c3e671043066baf803ee80fb03740966baf90cb006eeebfe66ba040666b8003c66eff4ebfd"
	// Loads an empty interrupt table and faults.
	guestTripleFault = "bc009000006a006a000f011c240f0b"
	// Writes 1 to the pvpanic port, then spins.
	guestPanic = "66ba0505b001eeebfe"
	// Starts all other vCPUs at 0x8000 by INIT and SIPI; each increments 0x9000; when that is 3 prints "3" and powers off.
	guestSMP = "c70500800000f0ff0600c7050480000090faf4ebc60508800000fdc7050090000000000000bbf000e0fec703ff010000" +
		"c7050003e0fe00450c00c7050003e0fe08460c00803d009000000375f766baf803b033ee66ba040666b8003c66eff4ebfd"
	// Echoes the serial port until a "q", counting in 0x9000; then powers off.
	guestEcho = "ff050090000066bafd03eca80174f166baf803ecee3c7175e766ba040666b8003c66eff4ebfd"
	// Waits for the power button's status bit, then powers off.
	guestButton = "66ba000666ed66a9000174f466ba040666b8003c66eff4ebfd"
	// Halts with interrupts off, which nothing wakes.
	guestHalt = "faf4ebfd"
	// Pulses the keyboard controller's reset line.
	guestKbdReset = "b0fee664ebfe"
)

// pvhKernel wraps code as an ELF kernel with a PVH note.
func pvhKernel(t *testing.T, code string) string {
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
	path := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// bench is a machine under test, with the other ends of what it uses.
type testMachine struct {
	*Machine
	t      *testing.T
	serial *os.File

	mu     sync.Mutex
	events []string
}

func testConfig() *Config {
	return &Config{
		Version: 1, Name: "test", UUID: "6d9a1cc6-8c1f-4bb0-9d59-2f3d4c0ff5a1", Machine: MachineQ35, KVM: "kvm",
		CPU:      CPU{Count: 1, Online: 1, Mode: CPUHostPassthrough},
		Memory:   Memory{Size: 32 << 20, Backing: memory.Backing{Kind: memory.Anonymous}},
		Boot:     Boot{Kernel: "kernel"},
		Clock:    Clock{PIT: true},
		OnReboot: ActionReset, OnCrash: ActionStop, PVPanic: true,
		Serials: []Serial{{ID: "serial0", Chardev: Chardev{Type: "unix", File: "serial"}}},
	}
}

// boot builds and starts a machine that runs code.
func bootGuest(t *testing.T, code string, change func(*Config)) *testMachine {
	t.Helper()
	m := buildGuest(t, code, change)
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	return m
}

func buildGuest(t *testing.T, code string, change func(*Config)) *testMachine {
	t.Helper()
	return buildGuestWith(t, code, change, nil)
}

// buildGuestWith is buildGuest with more descriptors.
func buildGuestWith(t *testing.T, code string, change func(*Config), more map[FileName]int) *testMachine {
	t.Helper()
	c := testConfig()
	if change != nil {
		change(c)
	}
	kvmFD, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) {
		t.Skipf("needs /dev/kvm: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	kernel, err := unix.Open(pvhKernel(t, code), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	tm := &testMachine{t: t, serial: os.NewFile(uintptr(pair[1]), "serial")}
	t.Cleanup(func() { tm.serial.Close() })
	tm.serial.SetDeadline(time.Now().Add(time.Minute))
	files := map[FileName]int{"kvm": kvmFD, "kernel": kernel, "serial": pair[0]}
	maps.Copy(files, more)
	tm.Machine, err = New(c, Host{
		Files: files,
		Logf:  t.Logf,
		Event: func(e monitor.Event) { tm.mu.Lock(); tm.events = append(tm.events, e.Name); tm.mu.Unlock() },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tm.Stop(ExitQuit, "test ends") })
	return tm
}

// wantEnd waits for the machine's end.
func (m *testMachine) wantEnd(reason ExitReason) {
	m.t.Helper()
	select {
	case <-m.Done():
	case <-time.After(time.Minute):
		m.t.Fatal("the machine does not end")
	}
	if r := m.Record(); r.Reason != reason {
		m.t.Fatalf("exit record %+v, want %s", r, reason)
	}
}

// wantSerial reads exactly want from the serial port.
func (m *testMachine) wantSerial(want string) {
	m.t.Helper()
	buf := make([]byte, len(want))
	n := 0
	for n < len(buf) {
		k, err := m.serial.Read(buf[n:])
		if err != nil {
			m.t.Fatalf("serial: %v after %q", err, buf[:n])
		}
		n += k
	}
	if string(buf) != want {
		m.t.Fatalf("serial: %q, want %q", buf, want)
	}
}

func (m *testMachine) wantEvents(want string) {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if got := strings.Join(m.events, " "); got != want {
		m.t.Errorf("events %q, want %q", got, want)
	}
}

// eventually waits for a state that other threads bring about; the limit only ends a broken test.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for range 2000 {
		if cond() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}
