package kvm

import (
	"slices"

	"virtd/domain"
	"virtd/domain/xmltree"
	"virtd/hypervisor"
	"virtd/hypervisor/memory"
	"virtd/virterr"
)

// VhostUserResource says how to reach the process that serves a device.
type VhostUserResource struct {
	Server    bool `json:"server,omitempty"`    // listen at Path; the second file is the listening socket. Else connect to it
	Reconnect uint `json:"reconnect,omitempty"` // the process may come later; seconds
}

// vhostUser plans the socket of a device.
func (p *planner) vhostUser(n *xmltree.Node) (hypervisor.VhostUser, error) {
	socket, err := domain.ReadVhostUser(n)
	if err != nil {
		return hypervisor.VhostUser{}, err
	}
	v := hypervisor.VhostUser{Socket: file("vhostuser", n)}
	r := Resource{
		Kind: ResourceVhostUser, Files: []hypervisor.FileName{v.Socket}, Alias: alias(n), Path: socket.Path,
		VhostUser: &VhostUserResource{Server: socket.Server, Reconnect: socket.Reconnect},
	}
	if socket.Server {
		v.Listen = file("vhostuser-listen", n)
		r.Files = append(r.Files, v.Listen)
	}
	p.add(r)
	return v, nil
}

// vhostUserDisk plans a disk whose image another process has.
func (p *planner) vhostUserDisk(n *xmltree.Node, at hypervisor.PCIAddress) error {
	v, err := p.vhostUser(n)
	driver := n.Child("driver")
	p.cfg.VhostUserDisks = append(p.cfg.VhostUserDisks, hypervisor.VhostUserDisk{
		ID: alias(n), Address: at, VhostUser: v, Queues: number(driver, "queues"), QueueSize: number(driver, "queue_size"),
		Transport: packed(driver),
	})
	return err
}

// vhostUserNIC plans an interface whose packets another process moves.
func (p *planner) vhostUserNIC(n *xmltree.Node, nic hypervisor.NIC) error {
	v, err := p.vhostUser(n)
	nic.VhostUser = &v
	p.cfg.NICs = append(p.cfg.NICs, nic)
	return err
}

// shareMemory makes RAM what the processes that serve devices can map, where there are such devices and the document leaves
// it open.
func (p *planner) shareMemory(b *memory.Backing) error {
	devices := p.def.Tree().Root.Child("devices")
	if !slices.ContainsFunc(devices.Elements(), domain.IsVhostUser) {
		return nil
	}
	if mb := p.view.MemoryBacking; mb != nil && mb.MemoryAccess != nil && mb.MemoryAccess.Mode == "private" {
		return virterr.New(virterr.ConfigUnsupported,
			"'vhost-user' requires shared memory: domain '%s' has <memoryBacking><access mode='private'/>", p.def.Name())
	}
	if b.Shared = true; b.Kind == memory.Anonymous {
		b.Kind = memory.Memfd
	}
	return nil
}
