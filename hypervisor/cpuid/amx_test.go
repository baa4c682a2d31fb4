package cpuid

import (
	"errors"
	"slices"
	"testing"
)

// amxHost is a host with AMX, whose kernel has or has not been asked for its state.
func amxHost(t *testing.T, permitted bool) []Entry {
	t.Helper()
	l := leaves(slices.Clone(hosts(t)["lab-amd"]))
	for _, name := range []string{"amx-tile", "amx-bf16", "amx-int8", "xsave"} {
		setFeature(&l, name, true)
	}
	e := l.make(0xd, 0)
	e.Flags |= SignificantIndex
	if e.EAX = 0x7; permitted {
		e.EAX |= 3 << 17
		l.set(0xd, 17, 64, 2752, 0, 0)
		l.set(0xd, 18, 8192, 2816, 0, 0)
	}
	return l
}

func TestAMX(t *testing.T) {
	passthrough := Spec{Count: 1, Mode: HostPassthrough}
	without := Spec{Count: 1, Mode: HostPassthrough, Features: map[string]Policy{"amx-tile": Disable}}
	required := Spec{Count: 1, Mode: HostPassthrough, Features: map[string]Policy{"amx-tile": Require}}
	for _, permitted := range []bool{false, true} {
		host := amxHost(t, permitted)
		if !WantsAMX(host, passthrough) || WantsAMX(host, without) || !WantsAMX(host, required) {
			t.Errorf("permitted %v: wrong guests want AMX", permitted)
		}
		g, err := New(PermittedAMX(host), passthrough)
		if err != nil {
			t.Fatal(err)
		}
		has := Lookup("amx-bf16").in(g.VCPU(0))
		state := g.common.value(0xd, 0, EAX)&tileComponents == tileComponents
		if has != permitted || state != permitted {
			t.Errorf("permitted %v: AMX %v, its state %v", permitted, has, state)
		}
		_, err = New(PermittedAMX(host), required)
		if bad := (*IncompatibleError)(nil); permitted == errors.As(err, &bad) {
			t.Errorf("permitted %v: %v", permitted, err)
		}
	}
	if WantsAMX(hosts(t)["lab-amd"], passthrough) {
		t.Error("a host without AMX is asked for it")
	}
}
