package kvm

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"virtd/domain"
	"virtd/domain/xmltree"
	"virtd/driver/kvm/steering"
	"virtd/hypervisor"
	"virtd/network/bridge"
	"virtd/virterr"
)

// steering plans receive-side scaling of an interface, which a tap is needed for.
func (p *planner) steering(n *xmltree.Node, nic *hypervisor.NIC) error {
	kind := ""
	switch {
	case domain.IsVhostUser(n):
		kind = "vhostuser"
	case n.Attr("type") == "user" || n.Attr("type") == "direct":
		kind = n.Attr("type")
	}
	if kind != "" {
		return n.Child("driver").Errorf(virterr.ConfigUnsupported,
			"rss='on' was requested for interface %s, but only a tap's queues can be chosen by the guest, and interfaces of type %s have none; "+
				"use an interface on a bridge, or rss='off'", nic.ID, kind)
	}
	files := files("bpf", n, 2)
	nic.Steering = &hypervisor.Steering{Program: files[0], Map: files[1]}
	p.add(Resource{Kind: ResourceBPF, Files: files, Alias: nic.ID})
	return nil
}

// canReportHashes refuses hash reports of an interface whose packets others than the engine move.
func canReportHashes(n *xmltree.Node, alias string) error {
	driver := n.Child("driver")
	switch {
	case domain.IsVhostUser(n):
		return driver.Errorf(virterr.ConfigUnsupported,
			"rss_hash_report='on' was requested for interface %s, but what moves its packets has no word for it, as it is of type vhostuser; use rss_hash_report='off'", alias)
	case driver.Attr("name") == "vhost" || n.Child("backend").Attr("vhost") != "":
		return driver.Errorf(virterr.ConfigUnsupported,
			"rss_hash_report='on' was requested for interface %s, but vhost-net reports no hashes; use <driver name='qemu'/> and no <backend vhost=''/>, or rss_hash_report='off'", alias)
	}
	return nil
}

// openSteering loads the program by which the kernel chooses queues.
func openSteering(r Resource) ([]*os.File, error) {
	program, table, err := steering.Open()
	if err != nil {
		return nil, rssError(r.Alias, "the kernel does not load a BPF program for it", err)
	}
	return []*os.File{program, table}, nil
}

// takesSteering refuses a tap that no program can choose the queues of.
func takesSteering(tap *bridge.Tap, alias string) error {
	if len(tap.Files) == 0 {
		return nil // nothing to ask, and the caller says so
	}
	if err := steering.Detach(tap.Files[0]); err != nil {
		return rssError(alias, "device "+tap.Name+" takes no BPF program for it", err)
	}
	return nil
}

// endSteering takes the programs that chose queues from taps that outlive their engine, as those with managed='no' do: one that
// did not end by itself has left them there, and whoever has the tap next would get its packets in the queues of that guest.
func (d *Driver) endSteering(live *domain.Definition, taps map[string]string) {
	for _, nic := range live.Tree().Root.Child("devices").All("interface") {
		name := taps[alias(nic)]
		if name == "" || nic.Child("driver").Attr("rss") != "on" {
			continue
		}
		if _, err := d.cfg.Links.Link(name); err != nil {
			continue // it went with the engine
		}
		tap, err := d.cfg.Links.OpenTap(bridge.TapConfig{Name: name, Queues: 1, Owner: -1, Unmanaged: true})
		if err == nil {
			err = steering.Detach(tap.Files[0])
			tap.Close()
		}
		if err != nil {
			d.log.Error("the program for receive-side scaling of a tap that is not in use any more stays", "domain", live.Name(), "tap", name, "err", err)
		}
	}
}

func rssError(alias, what string, err error) error {
	remedy := "use rss='off'"
	if errors.Is(err, unix.EPERM) {
		remedy = "run virtd with CAP_BPF and CAP_NET_ADMIN, or use rss='off'"
	}
	return virterr.New(virterr.ConfigUnsupported, "rss='on' was requested for interface %s, but %s: %w; %s", alias, what, err, remedy)
}
