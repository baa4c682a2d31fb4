package kvm

import (
	"os"
	"slices"
	"strings"
	"testing"

	"virtd/domain"
	"virtd/nodedev"
	"virtd/virterr"
)

// What an interface of type hostdev says about its function is what the card is told; the rest is left as it is.
func TestPlanFunction(t *testing.T) {
	text, err := os.ReadFile(domainDocuments + "hostdev.xml")
	if err != nil {
		t.Fatal(err)
	}
	const nic = "<interface type='hostdev'"
	if strings.Count(string(text), nic) != 1 {
		t.Fatal("the document has another number of functions than one")
	}
	for attribute, want := range map[string]bool{"": false, " trustGuestRxFilters='no'": false, " trustGuestRxFilters='yes'": true} {
		def, err := domain.Parse(strings.Replace(string(text), nic, nic+attribute, 1), domain.Options{})
		if err != nil {
			t.Fatal(err)
		}
		live, err := def.Start(1, planHost{})
		if err != nil {
			t.Fatal(err)
		}
		_, resources, err := Plan(live, facts)
		if err != nil {
			t.Fatal(err)
		}
		var told []*nodedev.FunctionConfig
		for _, r := range resources {
			if r.Hostdev != nil && r.Hostdev.Function != nil {
				told = append(told, r.Hostdev.Function)
			}
		}
		if len(told) != 1 || told[0].MAC == "" || told[0].VLAN == nil || told[0].SpoofChk != nil || told[0].MaxRate != nil {
			t.Fatalf("%q: the card is told %+v", attribute, told)
		}
		if trust := told[0].Trust; (trust != nil) != want || want && !*trust {
			t.Errorf("%q: trust is told: %v", attribute, trust != nil)
		}
	}
}

// Devices that do not get at guest memory in one way stop at the plan, also where a definition does not have them as such:
// virtual functions of a network's pool.
func TestPlanMixedIOMMUFD(t *testing.T) {
	text, err := os.ReadFile(domainDocuments + "hostdev-iommufd.golden.xml")
	if err != nil {
		t.Fatal(err)
	}
	mixed := strings.Replace(string(text), "<iommufd enabled='yes'/>", "", 1)
	def, err := domain.Parse(mixed, domain.Options{Stored: true})
	if err != nil {
		t.Fatal(err)
	}
	live, err := def.Start(1, planHost{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Plan(live, facts); !virterr.Is(err, virterr.ConfigUnsupported) || !strings.Contains(err.Error(), "some host devices of the domain use iommufd and some do not") {
		t.Errorf("got %v", err)
	}
}

// openedVFIO is a host that notes what is opened of VFIO.
type openedVFIO struct {
	Hostdevs
	calls []string
}

func (h *openedVFIO) open(call string) (*os.File, error) {
	h.calls = append(h.calls, call)
	return os.Open(os.DevNull)
}

func (h *openedVFIO) OpenContainer() (*os.File, error) { return h.open("container") }
func (h *openedVFIO) OpenIOMMUFD() (*os.File, error)   { return h.open("iommufd") }
func (h *openedVFIO) OpenDevice(a nodedev.Address) (*os.File, error) {
	return h.open("device " + a.String())
}
func (h *openedVFIO) OpenGroup(a nodedev.Address) (string, *os.File, error) {
	f, err := h.open("group of " + a.String())
	return a.String(), f, err
}

// virtd opens for the engine what the domain asks for, and nothing of the other interface.
func TestOpenHostdevs(t *testing.T) {
	for document, want := range map[string][]string{
		"hostdev":            {"container", "group of 0000:01:10.2", "group of 0000:03:00.0", "group of 0010:af:1f.7"},
		"hostdev-iommufd":    {"iommufd", "device 0000:01:10.2", "device 0000:03:00.0"},
		"hostdev-iommufd-no": {"container", "group of 0000:01:10.2", "group of 0000:03:00.0"},
	} {
		cfg, resources, err := Plan(started(t, document), facts)
		if err != nil {
			t.Fatal(err)
		}
		var some []Resource
		for _, r := range resources {
			if r.Kind == ResourceVFIO || r.Kind == ResourceIOMMUFD || r.Kind == ResourceHostdev {
				some = append(some, r)
			}
		}
		host := &openedVFIO{}
		d := &Driver{cfg: Config{Hostdevs: host}}
		o, err := d.open(cfg, some, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if len(o.files) != len(want) || !slices.Equal(host.calls, want) {
			t.Errorf("%s: %d files by %q, want %q", document, len(o.files), host.calls, want)
		}
		o.close()
	}
}
