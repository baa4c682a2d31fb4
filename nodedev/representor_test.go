package nodedev

import (
	"testing"

	"virtd/nodedev/nodedevtest"
)

// A card in switchdev mode is configured through its own interface, whatever the names of those that stand for its functions,
// and these are told.
func TestRepresentors(t *testing.T) {
	b := newHostdevs(t)
	const net = "@ devices/pci0000:00/0000:00:02.0/0000:01:00.0/net/"
	nodedevtest.Build(t, b.cfg.Sys, net+"enp1s0\nphys_port_name p0\n")
	for name, port := range map[string]string{"a0": "pf0vf0", "a1": "c1pf0vf1", "a2": "pf0", "a3": "pf0sf1", "a4": "pf0vf99999999999999999999"} {
		nodedevtest.Build(t, b.cfg.Sys, net+name+"\nphys_port_name "+port+"\n")
	}
	mac := "52:54:00:00:00:01"
	b.ok(b.ConfigureFunction(vf1, FunctionConfig{MAC: mac}))
	for _, p := range b.PhysicalFunctions() {
		if p.Address != igb {
			continue
		}
		if p.Interface != "enp1s0" || len(p.Functions) != 2 {
			t.Fatalf("the card is %+v", p)
		}
		for i, want := range []string{"a0", "a1"} {
			if f := p.Functions[i]; f.Representor != want || f.Interface == want {
				t.Errorf("function %d: %+v, want representor %s", i, f, want)
			}
		}
		if got := p.Functions[1].Config.MAC; got != mac {
			t.Errorf("the card says MAC %q of function 1", got)
		}
	}
	if got := b.links.last; got != "enp1s0" {
		t.Errorf("function 1 was configured through %q", got)
	}
}
