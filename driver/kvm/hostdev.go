package kvm

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"virtd/domain"
	"virtd/domain/xmltree"
	"virtd/hypervisor"
	"virtd/hypervisor/vfio"
	"virtd/nodedev"
	"virtd/virterr"
)

// Hostdevs is what the driver needs of the host's PCI functions; nodedev.Hostdevs has it.
type Hostdevs interface {
	Claim(ctx context.Context, user nodedev.User, want []nodedev.Claim) error
	Adopt(user nodedev.User, list []nodedev.Address)
	Release(ctx context.Context, user nodedev.User, list ...nodedev.Address) error
	Tidy(ctx context.Context, running func(uuid string) bool) error
	Group(a nodedev.Address) string
	OpenGroup(a nodedev.Address) (number string, group *os.File, err error)
	OpenContainer() (*os.File, error)
	OpenIOMMUFD() (*os.File, error)
	OpenDevice(a nodedev.Address) (*os.File, error)
}

// hostdev plans a <hostdev>, or an <interface> that is a virtual function.
func (p *planner) hostdev(n *xmltree.Node) error {
	at, err := address(n)
	if err != nil {
		return err
	}
	text, err := domain.HostdevAddress(n)
	if err != nil {
		return err
	}
	host, err := nodedev.ParseAddress(text)
	if err != nil {
		return virterr.New(virterr.XMLError, "%w", err)
	}
	claim := &nodedev.Claim{Address: host, Managed: n.Attr("managed") == "yes", IOMMUFD: p.def.UsesIOMMUFD(n)}
	if n.Is("interface") {
		claim.Function = &nodedev.FunctionConfig{MAC: n.Child("mac").Attr("address")}
		vlan := 0
		if tag := n.Child("vlan").Child("tag"); tag != nil {
			if vlan, err = strconv.Atoi(tag.Attr("id")); err != nil {
				return virterr.New(virterr.XMLError, "vlan tag id '%s' is not a number", tag.Attr("id"))
			}
		}
		claim.Function.VLAN = &vlan
		if trust := true; n.Attr("trustGuestRxFilters") == "yes" {
			claim.Function.Trust = &trust
		}
	}
	d := hypervisor.Hostdev{ID: alias(n), Address: at, Host: host.String(), Multi: n.Child("address").Attr("multifunction") == "on"}
	p.reach(&d, claim, n)
	rom, none := domain.HostdevROM(n)
	if d.NoROM = none; rom != "" {
		d.ROM = file("rom", n)
		p.add(Resource{Kind: ResourceROM, Files: []hypervisor.FileName{d.ROM}, Alias: d.ID, Path: rom})
	}
	p.cfg.Hostdevs = append(p.cfg.Hostdevs, d)
	return nil
}

// reach plans how the engine gets at a function: through the address space that it shares with the others of the domain, which
// VFIO's container is or iommufd, and its group or itself.
func (p *planner) reach(d *hypervisor.Hostdev, claim *nodedev.Claim, n *xmltree.Node) {
	unit, space, kind, name := &d.Group, &p.cfg.VFIO, ResourceVFIO, "group"
	if claim.IOMMUFD {
		unit, space, kind, name = &d.Cdev, &p.cfg.IOMMUFD, ResourceIOMMUFD, "cdev"
	}
	if *space == "" {
		*space = hypervisor.FileName(kind)
		p.add(Resource{Kind: kind, Files: []hypervisor.FileName{*space}})
	}
	*unit = file(name, n)
	p.add(Resource{Kind: ResourceHostdev, Files: []hypervisor.FileName{*unit}, Alias: d.ID, Hostdev: claim})
}

// claim takes the functions of a plan from the host.
func (s *starter) claim(ctx context.Context, name string, resources []Resource) error {
	var want []nodedev.Claim
	for _, r := range resources {
		if r.Kind == ResourceHostdev {
			want = append(want, *r.Hostdev)
			s.rec.Functions = merged(s.rec.Functions, map[string]string{r.Alias: r.Hostdev.Address.String()})
		}
	}
	if len(want) == 0 {
		return nil
	}
	return s.d.claim(ctx, nodedev.User{Name: name, UUID: s.cfg.UUID}, want)
}

func (d *Driver) claim(ctx context.Context, user nodedev.User, want []nodedev.Claim) error {
	if d.cfg.Hostdevs == nil {
		return virterr.New(virterr.ConfigUnsupported, "host doesn't support passthrough of host PCI devices: this virtd is not the system's")
	}
	return d.cfg.Hostdevs.Claim(ctx, user, want)
}

// hostdevTimeout bounds giving the devices of one domain back: a driver's probe can take long.
const hostdevTimeout = time.Minute

// releaseHostdevs gives the devices of an engine that has ended back to the host.
func (d *Driver) releaseHostdevs(name string, r *record) {
	if len(r.functions()) == 0 || d.cfg.Hostdevs == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), hostdevTimeout)
	defer cancel()
	if err := d.cfg.Hostdevs.Release(ctx, nodedev.User{Name: name, UUID: r.uuid()}); err != nil {
		d.log.Error("cannot give the host's devices back", "domain", name, "err", err)
	}
}

// adoptHostdevs notes what the engine of an earlier virtd has.
func (d *Driver) adoptHostdevs(name string, r *record) {
	if list := r.functions(); len(list) > 0 && d.cfg.Hostdevs != nil {
		d.cfg.Hostdevs.Adopt(nodedev.User{Name: name, UUID: r.uuid()}, list)
	}
}

// functions are those of the host that the engine has.
func (r *record) functions() []nodedev.Address {
	var list []nodedev.Address
	for _, text := range append(slices.Sorted(maps.Values(r.Functions)), r.Hostdevs...) {
		if a, err := nodedev.ParseAddress(text); err == nil {
			list = append(list, a)
		}
	}
	return list
}

// uuid is the domain's.
func (r *record) uuid() string { return filepath.Base(r.Dir) }

// openHostdev opens what the engine adds to its address space: a function, or its IOMMU group. A group can be open once:
// further functions of it share the description.
func (d *Driver) openHostdev(o *opened, r Resource) (*os.File, error) {
	if r.Hostdev.IOMMUFD {
		return d.cfg.Hostdevs.OpenDevice(r.Hostdev.Address)
	}
	number, f, err := d.cfg.Hostdevs.OpenGroup(r.Hostdev.Address)
	if first := o.groups[number]; first != nil && number != "" {
		if err == nil {
			f.Close()
		}
		return duplicate(first)
	}
	if err != nil {
		return nil, err
	}
	if o.groups == nil {
		o.groups = map[string]*os.File{}
	}
	o.groups[number] = f
	return f, nil
}

// openROM opens a file with an expansion ROM, which the engine reads.
func openROM(path string) (*os.File, error) {
	f, st, err := openAny("ROM file", path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		err = virterr.New(virterr.SystemError, "ROM file '%s' is %s, not a regular file", path, kindOf(st))
	case st.Size == 0 || st.Size > vfio.MaxROM:
		err = virterr.New(virterr.ConfigUnsupported, "ROM file '%s' has %d bytes; an expansion ROM has at least one and at most %d", path, st.Size, vfio.MaxROM)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("share an IOMMU group: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
