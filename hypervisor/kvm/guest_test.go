package kvm

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const donePort = 0xf4 // guests write it when they are through

// guest is a machine with 1 MiB of RAM at 0 and one or more vCPUs in real mode at 0000:1000.
type guest struct {
	t   *testing.T
	vm  *VM
	ram []byte
	cpu []*VCPU
}

func newGuest(t *testing.T, cpus int, code string) *guest {
	t.Helper()
	sys, err := Open()
	if err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) {
			t.Skipf("needs /dev/kvm: %v", err)
		}
		t.Fatal(err)
	}
	defer sys.Close()
	g := &guest{t: t}
	if g.vm, err = sys.CreateVM(); err != nil {
		t.Fatal(err)
	}
	if g.ram, err = unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, v := range g.cpu {
			v.Close()
		}
		g.vm.Close()
		unix.Munmap(g.ram)
	})
	g.check(g.vm.SetIdentityMapAddr(0xfeffc000))
	g.check(g.vm.SetTSSAddr(0xfeffd000))
	g.check(g.vm.CreateIRQChip())
	g.check(g.vm.SetMemory(0, 0, g.ram[:512<<10], 0))
	bytes, err := hex.DecodeString(code)
	g.check(err)
	copy(g.ram[0x1000:], bytes)
	for id := range cpus {
		v, err := g.vm.CreateVCPU(id)
		g.check(err)
		g.cpu = append(g.cpu, v)
	}
	g.start(0x1000)
	return g
}

func (g *guest) check(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

// start puts vCPU 0 at 0000:ip in real mode.
func (g *guest) start(ip uint64) {
	g.t.Helper()
	s, err := g.cpu[0].SRegs()
	g.check(err)
	s.CS.Base, s.CS.Selector = 0, 0
	g.check(g.cpu[0].SetSRegs(s))
	g.check(g.cpu[0].SetRegs(&Regs{RIP: ip, RFLAGS: 2, RSP: 0x7000}))
}

// run enters the guest until an exit other than a stray signal.
func (g *guest) run() ExitReason {
	g.t.Helper()
	v := g.cpu[0]
	for range 1000 {
		err := v.Run()
		if errors.Is(err, unix.EINTR) {
			continue
		}
		g.check(err)
		if v.ExitReason() == ExitInternalError {
			g.t.Fatalf("KVM gave up: %+v", v.InternalError())
		}
		return v.ExitReason()
	}
	g.t.Fatal("1000 interrupted entries and no exit")
	return 0
}

// wantOut runs to the next exit, which must write want to port.
func (g *guest) wantOut(port uint16, want string) {
	g.t.Helper()
	if r := g.run(); r != ExitIO {
		g.t.Fatalf("exit reason %d, want a port access", r)
	}
	if p := g.cpu[0].PIO(); !p.Out || p.Port != port || string(p.Data) != want {
		g.t.Fatalf("port access %+v, want %q written to %#x", p, want, port)
	}
}

func (g *guest) wantDone() {
	g.t.Helper()
	if r := g.run(); r != ExitIO || g.cpu[0].PIO().Port != donePort {
		g.t.Fatalf("exit reason %d %+v, want the done port", r, g.cpu[0].PIO())
	}
}

func TestPortAccess(t *testing.T) {
	// mov dx,0x3f8; mov al,'A'; out dx,al; in al,0x40; inc al; out 0x42,al; out 0xf4,al
	g := newGuest(t, 1, "baf803b041eee440fec0e642e6f4ebfe")
	g.wantOut(0x3f8, "A")
	if r := g.run(); r != ExitIO {
		t.Fatalf("exit %d", r)
	}
	p := g.cpu[0].PIO()
	if p.Out || p.Port != 0x40 || p.Size != 1 || p.Count != 1 {
		t.Fatalf("%+v, want one byte read from 0x40", p)
	}
	p.Data[0] = 0x22
	g.wantOut(0x42, "\x23")
	g.wantDone()
}

func TestStringPortAccess(t *testing.T) {
	// cld; si=0x2000; cx=5; dx=0x50; rep outsb; di=0x3000; cx=3; dx=0x52; rep insw; out 0x54,[0x3000]; out 0x54,[0x3004]
	g := newGuest(t, 1, "fcbe0020b90500ba5000f36ebf0030b90300ba5200f36da10030e754a10430e754e6f4ebfe")
	copy(g.ram[0x2000:], "hello")
	var out string
	words := []string{"ab", "cd", "ef"}
	for len(out) < 5 {
		if r := g.run(); r != ExitIO {
			t.Fatalf("exit %d", r)
		}
		p := g.cpu[0].PIO()
		if !p.Out || p.Port != 0x50 || p.Size != 1 || p.Count*p.Size != len(p.Data) {
			t.Fatalf("%+v", p)
		}
		out += string(p.Data)
	}
	if out != "hello" {
		t.Fatalf("rep outsb wrote %q", out)
	}
	for len(words) > 0 {
		if r := g.run(); r != ExitIO {
			t.Fatalf("exit %d", r)
		}
		p := g.cpu[0].PIO()
		if p.Out || p.Port != 0x52 || p.Size != 2 || p.Count > len(words) {
			t.Fatalf("%+v", p)
		}
		for i := range p.Count {
			copy(p.Data[2*i:], words[i])
		}
		words = words[p.Count:]
	}
	g.wantOut(0x54, "ab")
	g.wantOut(0x54, "ef")
	g.wantDone()
}

func TestMMIO(t *testing.T) {
	// ds=0x8000; mov [0x10],eax=0x11223344; mov ax,[0x20]; mov [0x11],al; RAM ends at 0x80000
	g := newGuest(t, 1, "b800808ed866b84433221166a31000a12000a21100e6f4ebfe")
	wantMMIO := func(addr uint64, write bool, n int) MMIO {
		t.Helper()
		if r := g.run(); r != ExitMMIO {
			t.Fatalf("exit %d", r)
		}
		m := g.cpu[0].MMIO()
		if m.Addr != addr || m.Write != write || len(m.Data) != n {
			t.Fatalf("%+v", m)
		}
		return m
	}
	if m := wantMMIO(0x80010, true, 4); string(m.Data) != "\x44\x33\x22\x11" {
		t.Fatalf("wrote %x", m.Data)
	}
	copy(wantMMIO(0x80020, false, 2).Data, "\x5a\xa5")
	if m := wantMMIO(0x80011, true, 1); m.Data[0] != 0x5a {
		t.Fatalf("read gave %x", m.Data)
	}
	g.wantDone()
}

func TestDoorbell(t *testing.T) {
	// ds=0x8000; 3 times mov [0x100],cx; out 0x60,ax=7; out 0xf4
	g := newGuest(t, 1, "b800808ed8b90300890e0001e2fab80700e760e6f4ebfe")
	mem, port := eventfd(t), eventfd(t)
	g.check(g.vm.AssignIOEventFD(IOEvent{Addr: 0x80100}, mem))
	pio := IOEvent{Addr: 0x60, Len: 2, Port: true, Match: true, Data: 7}
	g.check(g.vm.AssignIOEventFD(pio, port))
	g.wantDone()
	if n := drain(t, mem); n != 3 {
		t.Errorf("memory doorbell rang %d times, want 3", n)
	}
	if n := drain(t, port); n != 1 {
		t.Errorf("port doorbell rang %d times, want 1", n)
	}
	g.check(g.vm.DeassignIOEventFD(pio, port))
	g.start(0x1000)
	g.wantOut(0x60, "\x07\x00")
}

func eventfd(t *testing.T) int {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func drain(t *testing.T, fd int) uint64 {
	t.Helper()
	var b [8]byte
	if _, err := unix.Read(fd, b[:]); err == unix.EAGAIN {
		return 0
	} else if err != nil {
		t.Fatal(err)
	}
	return uint64(b[0])
}

// isr counts at port 0xf4 each interrupt 0x30, from a hlt loop.
const isr = "fa31c08ed88ed0bc0070c706c0004010c706c2000000fbf4ebfd" +
	"0000000000000000000000000000000000000000000000000000000000000000000000000000" + "b055e6f4" + endOfInterrupt + "cf"

// endOfInterrupt is wrmsr 0x80b=0, which x2APIC mode has for it. Without it no second interrupt of the vector comes.
const endOfInterrupt = "66b90b0800006631c06631d20f30"

// enableAPIC switches x2APIC mode on (SDM 3A, 11.12.1), whose registers real mode can reach, and sets the software enable bit of the spurious vector register (SDM 3A, 11.9), which fixed messages need.
func (g *guest) enableAPIC() {
	g.t.Helper()
	sys, err := Open()
	g.check(err)
	defer sys.Close()
	cpuid, err := sys.SupportedCPUID()
	g.check(err)
	g.check(g.cpu[0].SetCPUID(cpuid))
	s, err := g.cpu[0].SRegs()
	g.check(err)
	s.APICBase |= 1 << 10
	g.check(g.cpu[0].SetSRegs(s))
	l, err := g.cpu[0].LAPIC()
	g.check(err)
	l.Regs[0xf0], l.Regs[0xf1] = 0xff, 1
	g.check(g.cpu[0].SetLAPIC(l))
}

func TestMessageInterrupt(t *testing.T) {
	g := newGuest(t, 1, isr)
	g.enableAPIC()
	fd := eventfd(t)
	g.check(g.vm.SetRouting([]Route{MSIRoute(24, 0xfee00000, 0x30)}))
	g.check(g.vm.AssignIRQFD(fd, 24))
	signal(t, fd)
	g.wantDone()

	// Without the binding the signal stays in the eventfd, and binding delivers it.
	g.check(g.vm.DeassignIRQFD(fd, 24))
	signal(t, fd)
	g.check(g.vm.AssignIRQFD(fd, 24))
	g.wantDone()

	if ok, err := g.vm.SignalMSI(0xfee00000, 0x30); err != nil || !ok {
		t.Fatalf("SignalMSI: %v, %v", ok, err)
	}
	g.wantDone()
}

// TestResample raises a level-triggered pin: KVM signals the resample eventfd when the guest ends the interrupt.
func TestResample(t *testing.T) {
	// after the end of interrupt: out 0x42,al
	g := newGuest(t, 1, strings.TrimSuffix(isr, "cf")+"e642cf")
	g.enableAPIC()
	fd, resample := eventfd(t), eventfd(t)
	g.check(g.vm.SetRouting([]Route{ChipRoute(10, ChipIOAPIC, 10)}))
	io, err := g.vm.IRQChip(ChipIOAPIC)
	g.check(err)
	// Redirection entry 10 (82093AA, 3.2.4): vector 0x30, level-triggered. Entries follow base, ioregsel, id, irr, pad.
	copy(io.State[24+8*10:], []byte{0x30, 0x80, 0, 0, 0, 0, 0, 0})
	g.check(g.vm.SetIRQChip(io))
	g.check(g.vm.AssignIRQFDResample(fd, resample, 10))
	signal(t, fd)
	g.wantDone()
	g.wantOut(0x42, "\x00")
	if n := drain(t, resample); n == 0 {
		t.Error("not resampled at the end of interrupt")
	}
	g.check(g.vm.DeassignIRQFD(fd, 10))
}

func signal(t *testing.T, fd int) {
	t.Helper()
	if _, err := unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
}

func TestDirtyLog(t *testing.T) {
	// mov byte [0x5000],1; mov byte [0x7fff],2; out 0xf4
	g := newGuest(t, 1, "c606005001c606ff7f02e6f4ebfe")
	g.check(g.vm.SetMemory(0, 0, g.ram[:512<<10], MemLogDirty))
	log := make([]uint64, 2)
	g.wantDone()
	g.check(g.vm.DirtyLog(0, log))
	// the page of the code may be in it: hardware paging maps a page writable when it is first touched
	if log[0]&^(1<<1) != 1<<5|1<<7 || log[1] != 0 {
		t.Errorf("dirty pages %#x", log)
	}
	g.check(g.vm.DirtyLog(0, log))
	if log[0] != 0 {
		t.Errorf("dirty pages %#x survive reading", log)
	}
}

func TestTripleFault(t *testing.T) {
	g := newGuest(t, 1, "0f0b") // ud2, in protected mode without an interrupt table
	s, err := g.cpu[0].SRegs()
	g.check(err)
	flat := Segment{Limit: 0xffffffff, Selector: 16, Type: 3, Present: 1, DB: 1, S: 1, G: 1}
	s.DS, s.ES, s.SS, s.FS, s.GS = flat, flat, flat, flat, flat
	s.CS = flat
	s.CS.Selector, s.CS.Type = 8, 11
	s.CR0 |= 1
	s.IDT = DTable{}
	g.check(g.cpu[0].SetSRegs(s))
	if r := g.run(); r != ExitShutdown {
		t.Errorf("exit %d, want shutdown", r)
	}
}

// TestLongMode runs 64-bit code behind identity page tables.
func TestLongMode(t *testing.T) {
	// movabs rax,0x1122334455667788; mov r9,rax; shr r9,56; mov rax,r9; out 0x42,al; out 0xf4,al
	g := newGuest(t, 1, "48b888776655443322114989c149c1e9384c89c8e642e6f4ebfe")
	entry := func(at int, v uint64) { binary.LittleEndian.PutUint64(g.ram[at:], v) }
	entry(0x9000, 0xa000|3)
	entry(0xa000, 0xb000|3)
	entry(0xb000, 0x83) // 2 MiB page at 0
	s, err := g.cpu[0].SRegs()
	g.check(err)
	data := Segment{Limit: 0xffffffff, Selector: 16, Type: 3, Present: 1, DB: 1, S: 1, G: 1}
	s.DS, s.ES, s.SS, s.FS, s.GS = data, data, data, data, data
	s.CS = Segment{Limit: 0xffffffff, Selector: 8, Type: 11, Present: 1, L: 1, S: 1, G: 1}
	s.CR0, s.CR3, s.CR4, s.EFER = 0x80000011, 0x9000, 0x20, 0x500
	g.check(g.cpu[0].SetSRegs(s))
	g.wantOut(0x42, "\x11")
	g.wantDone()
}

// TestKick stops a guest that never exits by itself, many times, from another thread.
func TestKick(t *testing.T) {
	g := newGuest(t, 1, "66ff060040ebf9") // inc dword [0x4000]; loop
	v := g.cpu[0]
	kicks := make(chan struct{})
	defer close(kicks)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	v.Bind()
	defer v.Unbind()
	go func() {
		for range kicks {
			v.Kick()
		}
	}()
	for i := range 200 {
		kicks <- struct{}{}
		if err := v.Run(); !errors.Is(err, unix.EINTR) {
			t.Fatalf("round %d: %v, exit %d", i, err, v.ExitReason())
		}
		// A stray signal may have ended Run before the kick: the flag stays until ClearKick, so nothing is lost.
		v.ClearKick()
	}
}

func TestKickBeforeRun(t *testing.T) {
	g := newGuest(t, 1, "ebfe")
	g.cpu[0].Kick()
	if err := g.cpu[0].Run(); !errors.Is(err, unix.EINTR) {
		t.Fatalf("Run after Kick: %v", err)
	}
}

func TestCompleteIO(t *testing.T) {
	// in al,0x40; inc al; out 0xf4,al
	g := newGuest(t, 1, "e440fec0e6f4ebfe")
	if r := g.run(); r != ExitIO {
		t.Fatalf("exit %d", r)
	}
	g.cpu[0].PIO().Data[0] = 0x70
	g.check(g.cpu[0].CompleteIO())
	r, err := g.cpu[0].Regs()
	g.check(err)
	if r.RAX&0xff != 0x70 || r.RIP != 0x1002 {
		t.Errorf("after completion al=%#x ip=%#x, want 0x70 at 0x1002", r.RAX&0xff, r.RIP)
	}
	g.wantOut(donePort, "\x71")
}

// TestStateRoundTrip moves a vCPU in the middle of its work to another machine.
func TestStateRoundTrip(t *testing.T) {
	const code = "b80000404040e642404040e642e6f4ebfe" // ax=0; inc x3; out 0x42; inc x3; out 0x42
	a, b := newGuest(t, 1, code), newGuest(t, 1, code)
	a.wantOut(0x42, "\x03")
	a.check(a.cpu[0].CompleteIO())
	sys, err := Open()
	a.check(err)
	defer sys.Close()
	indices, err := sys.MSRIndices()
	a.check(err)
	s, err := a.cpu[0].State(indices)
	a.check(err)
	refused, err := b.cpu[0].SetState(s)
	b.check(err)
	if len(refused) > 0 {
		t.Logf("MSRs that KVM refuses: %#x", refused)
	}
	b.wantOut(0x42, "\x06")
	b.wantDone()
}

func TestClock(t *testing.T) {
	g := newGuest(t, 1, "ebfe")
	c, err := g.vm.Clock()
	g.check(err)
	g.check(g.vm.SetClock(ClockData{Clock: c.Clock + 1e12}))
	later, err := g.vm.Clock()
	g.check(err)
	if later.Clock < c.Clock+1e12 {
		t.Errorf("clock %d after it was set to %d", later.Clock, uint64(c.Clock+1e12))
	}
	g.check(g.cpu[0].ClockPaused())
}
