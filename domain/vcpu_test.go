package domain

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"virtd/virterr"
)

// vcpuDefinition is a domain whose <vcpu> and <vcpus> are text.
func vcpuDefinition(t testing.TB, text string) *Definition {
	t.Helper()
	d, err := Parse("<domain type='kvm'><name>a</name><memory>65536</memory>"+text+
		"<os><type machine='q35'>hvm</type><kernel>/k</kernel></os><features><acpi/></features></domain>", Options{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// said returns the lines of a definition about vCPUs.
func said(d *Definition) string {
	var lines []string
	for _, line := range strings.Split(d.XML(0), "\n") {
		if strings.Contains(line, "vcpu") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return strings.Join(lines, "\n")
}

func TestConfigVCPUs(t *testing.T) {
	const list = "<vcpu current='2'>4</vcpu><vcpus><vcpu id='0' enabled='yes' hotpluggable='no' order='1'/>" +
		"<vcpu id='2' enabled='yes' hotpluggable='yes' order='2'/></vcpus>"
	for _, c := range []struct {
		name, text string
		edit       func(*Definition) (*Definition, error)
		online     []int
		want       []string // lines
		not        string
	}{
		{"hotpluggable", "<vcpu current='1'>3</vcpu>", func(d *Definition) (*Definition, error) { return d.SetVCPUs(2, true) }, []int{0, 1},
			[]string{"current='2'>3<", "id='1' enabled='yes' hotpluggable='yes'/"}, "order"},
		{"as before", "<vcpu current='1'>3</vcpu>", func(d *Definition) (*Definition, error) { return d.SetVCPUs(2, false) }, []int{0, 1},
			[]string{"current='2'>3<"}, "<vcpus>"},
		{"fewer", "<vcpu>3</vcpu>", func(d *Definition) (*Definition, error) { return d.SetVCPUs(1, true) }, []int{0}, []string{"current='1'>3<"}, "<vcpus>"},
		{"the hole first", list, func(d *Definition) (*Definition, error) { return d.SetVCPUs(3, false) }, []int{0, 1, 2},
			[]string{"id='1' enabled='yes' hotpluggable='no'"}, "order"},
		{"after one that can go", list, func(d *Definition) (*Definition, error) { return d.SetVCPUs(4, false) }, []int{0, 1, 2, 3},
			[]string{"'static'>4<", "id='3' enabled='yes' hotpluggable='yes'"}, "current"},
		{"single", "<vcpu current='1'>4</vcpu>", func(d *Definition) (*Definition, error) { return d.SetVCPUState([]int{1, 3}, true) }, []int{0, 1, 3},
			[]string{"current='3'>4<", "id='3' enabled='yes' hotpluggable='yes'/"}, "order"},
		{"single off", list, func(d *Definition) (*Definition, error) { return d.SetVCPUState([]int{2}, false) }, []int{0},
			[]string{"current='1'>4<", "id='2' enabled='no' hotpluggable='yes'/"}, "order"},
		{"smaller maximum", list, func(d *Definition) (*Definition, error) { return d.SetMaxVCPUs(2) }, []int{0}, []string{"current='1'>2<"}, "id='2'"},
		{"larger maximum", list, func(d *Definition) (*Definition, error) { return d.SetMaxVCPUs(5) }, []int{0, 2},
			[]string{"current='2'>5<", "id='4' enabled='no'"}, "order"},
	} {
		d, err := c.edit(vcpuDefinition(t, c.text))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		text := said(d)
		for _, line := range c.want {
			if !strings.Contains(text, line) {
				t.Errorf("%s: no %s in\n%s", c.name, line, text)
			}
		}
		if !slices.Equal(d.OnlineVCPUs(), c.online) || strings.Contains(text, c.not) {
			t.Errorf("%s: %v, or %q is in\n%s", c.name, d.OnlineVCPUs(), c.not, text)
		}
	}
	if _, err := vcpuDefinition(t, "<vcpu>3</vcpu>").SetVCPUState([]int{1}, false); !virterr.Is(err, virterr.InvalidArg) {
		t.Errorf("took a vCPU from before one that stays: %v", err)
	}
}

func TestLiveVCPUs(t *testing.T) {
	d := vcpuDefinition(t, "<vcpu current='2'>5</vcpu>")
	for _, id := range []int{4, 2} {
		var err error
		if d, err = d.PlugVCPU(id); err != nil {
			t.Fatal(err)
		}
	}
	d, err := d.UnplugVCPU(4)
	if err != nil {
		t.Fatal(err)
	}
	if d, err = d.PlugVCPU(3); err != nil {
		t.Fatal(err)
	}
	want := `<vcpu placement='static' current='4'>5</vcpu>
<vcpus>
<vcpu id='0' enabled='yes' hotpluggable='no' order='1'/>
<vcpu id='1' enabled='yes' hotpluggable='no' order='2'/>
<vcpu id='2' enabled='yes' hotpluggable='yes' order='3'/>
<vcpu id='3' enabled='yes' hotpluggable='yes' order='4'/>
<vcpu id='4' enabled='no' hotpluggable='yes'/>
</vcpus>`
	if got := said(d); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, c := range []struct {
		n      int
		ids    []int
		online bool
		code   virterr.Code
	}{{5, []int{4}, true, 0}, {4, nil, false, 0}, {2, []int{3, 2}, false, 0}, {1, nil, false, virterr.ConfigUnsupported}, {6, nil, false, virterr.InvalidArg}} {
		ids, online, err := d.SelectVCPUs(c.n)
		if c.code != 0 && !virterr.Is(err, c.code) || c.code == 0 && (err != nil || !slices.Equal(ids, c.ids) || online != c.online) {
			t.Errorf("%d vCPUs: %v, %v, %v", c.n, ids, online, err)
		}
	}
	if now := d.WithVCPUs([]int{0, 1, 4, 77}); !slices.Equal(now.OnlineVCPUs(), []int{0, 1, 4}) {
		t.Errorf("the engine's word became %v", now.OnlineVCPUs())
	}
	if d.WithVCPUs(d.OnlineVCPUs()) != d {
		t.Error("the same is another definition")
	}
	for _, id := range []int{0, -1, 5} {
		if _, err := d.PlugVCPU(id); err == nil {
			t.Errorf("plugged vCPU %d", id)
		}
	}
}

// Whatever comes and goes, the document says what the definition knows, and can be read again.
func TestVCPUsSurviveReading(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, err := Parse("<domain type='kvm'><name>a</name><memory>65536</memory><vcpu current='2'>6</vcpu>"+
			"<os><type machine='q35'>hvm</type><kernel>/k</kernel></os><features><acpi/></features></domain>", Options{})
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			id, on := rapid.IntRange(0, 6).Draw(t, "id"), rapid.Bool().Draw(t, "on")
			step := rapid.SampledFrom([]func() (*Definition, error){
				func() (*Definition, error) { return d.setLiveVCPU(id, on) },
				func() (*Definition, error) { return d.SetVCPUState([]int{id}, on) },
				func() (*Definition, error) { return d.SetVCPUs(id, on) },
				func() (*Definition, error) { return d.SetMaxVCPUs(id) },
			}).Draw(t, "step")
			if next, err := step(); err == nil {
				d = next
			}
			again, err := Parse(d.XML(0), Options{})
			if err != nil {
				t.Fatalf("%v\n%s", err, said(d))
			}
			if !slices.Equal(again.vcpus, d.vcpus) || !d.vcpus[0].Online {
				t.Fatalf("%v was read as %v", d.vcpus, again.vcpus)
			}
		}
	})
}
