package cpuid

import "sort"

// Entry is one CPUID leaf, as struct kvm_cpuid_entry2 has it.
type Entry struct {
	Function uint32 `json:"function"`
	Index    uint32 `json:"index,omitempty"`
	Flags    uint32 `json:"flags,omitempty"`
	EAX      uint32 `json:"eax"`
	EBX      uint32 `json:"ebx"`
	ECX      uint32 `json:"ecx"`
	EDX      uint32 `json:"edx"`
}

// SignificantIndex is the flag of an entry whose Index takes part in the match (KVM_CPUID_FLAG_SIGNIFCANT_INDEX).
const SignificantIndex = 1

// Register names one of the four registers of a leaf.
type Register uint8

// Registers.
const (
	EAX Register = iota
	EBX
	ECX
	EDX
)

func (e *Entry) reg(r Register) *uint32 {
	switch r {
	case EAX:
		return &e.EAX
	case EBX:
		return &e.EBX
	case ECX:
		return &e.ECX
	default:
		return &e.EDX
	}
}

// leaves is a set of entries under construction.
type leaves []Entry

// get returns the entry of a leaf, or nil.
func (l leaves) get(function, index uint32) *Entry {
	for i := range l {
		if e := &l[i]; e.Function == function && (e.Index == index || e.Flags&SignificantIndex == 0 && index == 0) {
			return e
		}
	}
	return nil
}

// make returns the entry of a leaf and adds an empty one when it is missing.
func (l *leaves) make(function, index uint32) *Entry {
	if e := l.get(function, index); e != nil {
		return e
	}
	e := Entry{Function: function, Index: index}
	if indexed(function) {
		e.Flags = SignificantIndex
	}
	*l = append(*l, e)
	return &(*l)[len(*l)-1]
}

// set replaces a leaf.
func (l *leaves) set(function, index, eax, ebx, ecx, edx uint32) {
	e := l.make(function, index)
	e.EAX, e.EBX, e.ECX, e.EDX = eax, ebx, ecx, edx
}

// drop removes all subleaves of the functions from first to last.
func (l *leaves) drop(first, last uint32) {
	kept := (*l)[:0]
	for _, e := range *l {
		if e.Function < first || e.Function > last {
			kept = append(kept, e)
		}
	}
	*l = kept
}

// value returns a register, 0 when the leaf is missing.
func (l leaves) value(function, index uint32, r Register) uint32 {
	if e := l.get(function, index); e != nil {
		return *e.reg(r)
	}
	return 0
}

func (l leaves) sort() {
	sort.SliceStable(l, func(i, j int) bool {
		if l[i].Function != l[j].Function {
			return l[i].Function < l[j].Function
		}
		return l[i].Index < l[j].Index
	})
}

// indexed reports whether a leaf has subleaves that ECX chooses.
func indexed(function uint32) bool {
	switch function {
	case 4, 7, 0xb, 0xd, 0xf, 0x10, 0x12, 0x14, 0x17, 0x18, 0x1d, 0x1e, 0x1f, 0x23, 0x24, 0x8000001d, 0x80000020, 0x80000026:
		return true
	}
	return false
}
