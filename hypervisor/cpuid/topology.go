package cpuid

import (
	"fmt"
	"math/bits"
)

// Topology is how vCPUs are spread; each field is at least 1.
type Topology struct{ Sockets, Dies, Clusters, Cores, Threads int }

// Count returns the number of vCPUs.
func (t Topology) Count() int { return t.Sockets * t.perSocket() }

func (t Topology) perSocket() int { return t.Dies * t.perDie() }
func (t Topology) perDie() int    { return t.coresOfDie() * t.Threads }

// coresOfDie counts the cores of all clusters: CPUID has no level for clusters of a die.
func (t Topology) coresOfDie() int { return t.Clusters * t.Cores }

// width is how many bits number n things.
func width(n int) int { return bits.Len(uint(n - 1)) }

func (t Topology) threadBits() int { return width(t.Threads) }
func (t Topology) dieShift() int   { return t.threadBits() + width(t.coresOfDie()) }
func (t Topology) socketShift() int {
	return t.dieShift() + width(t.Dies)
}

// place returns where vCPU i sits.
func (t Topology) place(i int) (socket, die, core, thread int) {
	return i / t.perSocket(), i / t.perDie() % t.Dies, i / t.Threads % t.coresOfDie(), i % t.Threads
}

// APICID returns the APIC identifier of vCPU i: the levels side by side, each in as many bits as it needs (Intel SDM 3A,
// 9.9.3). Identifiers have gaps where a level is no power of two.
func (t Topology) APICID(i int) uint32 {
	socket, die, core, thread := t.place(i)
	return uint32(socket<<t.socketShift() | die<<t.dieShift() | core<<t.threadBits() | thread)
}

// Normalize returns t with absent fields as 1 and, when nothing is given, one socket for each of count vCPUs, which is
// what libvirt's default is. It fails when the product is not count.
func (t Topology) Normalize(count int) (Topology, error) {
	if t == (Topology{}) {
		t.Sockets = count
	}
	for _, f := range []*int{&t.Sockets, &t.Dies, &t.Clusters, &t.Cores, &t.Threads} {
		if *f == 0 {
			*f = 1
		}
		if *f < 0 || *f > 1<<10 {
			return t, fmt.Errorf("CPU topology has a level of %d", *f)
		}
	}
	if n := t.Count(); n != count {
		return t, fmt.Errorf("CPU topology of %d sockets, %d dies, %d clusters, %d cores and %d threads has %d CPUs, and the domain has %d",
			t.Sockets, t.Dies, t.Clusters, t.Cores, t.Threads, n, count)
	}
	return t, nil
}

// Types of level in leaves 0xb and 0x1f.
const (
	levelThread = 1
	levelCore   = 2
	levelDie    = 5
)

// topologyLeaves rewrites all that tells about siblings, for any vCPU; perVCPU adds what differs.
func topologyLeaves(l *leaves, t Topology, amd bool) {
	l.drop(0xb, 0xb)
	l.drop(0x1f, 0x1f)
	level := func(function, index uint32, shift, count, kind int) {
		l.set(function, index, uint32(shift), uint32(count), index|uint32(kind)<<8, 0)
	}
	level(0xb, 0, t.threadBits(), t.Threads, levelThread)
	level(0xb, 1, t.socketShift(), t.perSocket(), levelCore)
	level(0xb, 2, 0, 0, 0)
	if t.Dies > 1 && !amd {
		level(0x1f, 0, t.threadBits(), t.Threads, levelThread)
		level(0x1f, 1, t.dieShift(), t.perDie(), levelCore)
		level(0x1f, 2, t.socketShift(), t.perSocket(), levelDie)
		level(0x1f, 3, 0, 0, 0)
	}
	one := l.make(1, 0)
	one.EBX = one.EBX&0x0000ffff | uint32(min(t.perSocket(), 255))<<16
	setFeature(l, "ht", t.perSocket() > 1)
	setFeature(l, "cmp_legacy", amd && t.perSocket() > 1)
	cacheSharing(l, t)
	if amd {
		if e := l.get(0x80000008, 0); e != nil {
			e.ECX = uint32(t.socketShift())<<12 | uint32(t.perSocket()-1)&0xff
		}
	}
}

// cacheSharing tells in leaves 4 and 0x8000001d how many threads share each cache: those of a core, and for level 3 and
// up those of a die.
func cacheSharing(l *leaves, t Topology) {
	for i := range *l {
		e := &(*l)[i]
		if e.Function != 4 && e.Function != 0x8000001d || e.EAX&0x1f == 0 {
			continue
		}
		shift := t.threadBits()
		if e.EAX>>5&7 >= 3 {
			shift = t.dieShift()
		}
		e.EAX = e.EAX&0x3fff | uint32(1<<shift-1)&0xfff<<14
		if e.Function == 4 {
			e.EAX |= uint32(1<<(t.socketShift()-t.threadBits())-1) & 0x3f << 26
		}
	}
}

// perVCPU writes the identifiers of vCPU i.
func perVCPU(l *leaves, t Topology, i int) {
	id := t.APICID(i)
	one := l.make(1, 0)
	one.EBX = one.EBX&0x00ffffff | id<<24
	for j := range *l {
		if e := &(*l)[j]; e.Function == 0xb || e.Function == 0x1f {
			e.EDX = id
		}
	}
	if e := l.get(0x8000001e, 0); e != nil {
		socket, die, core, _ := t.place(i)
		e.EAX = id
		e.EBX = uint32(die*t.coresOfDie()+core)&0xff | uint32(t.Threads-1)<<8
		e.ECX = uint32(socket*t.Dies+die)&0xff | uint32(t.Dies-1)&7<<8
		e.EDX = 0
	}
}

func setFeature(l *leaves, name string, on bool) { Lookup(name).setIn(l, on) }
