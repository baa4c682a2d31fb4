package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"virtd/network"
	"virtd/rpc"
	"virtd/virterr"
)

// registerNetworks adds the procedures of virtual networks, where the daemon has any to manage.
func (d *Daemon) registerNetworks(reg *rpc.Registry) {
	if d.cfg.Networks == nil {
		return
	}
	on(reg, rpc.ProcConnectListAllNetworks, d.listAllNetworks)
	on(reg, rpc.ProcConnectNumOfNetworks, d.numOfNetworks)
	on(reg, rpc.ProcConnectListNetworks, d.listNetworks)
	on(reg, rpc.ProcConnectNumOfDefinedNetworks, d.numOfDefinedNetworks)
	on(reg, rpc.ProcConnectListDefinedNetworks, d.listDefinedNetworks)
	on(reg, rpc.ProcNetworkLookupByName, d.networkLookupByName)
	on(reg, rpc.ProcNetworkLookupByUUID, d.networkLookupByUUID)
	on(reg, rpc.ProcNetworkCreateXML, d.networkCreateXML)
	on(reg, rpc.ProcNetworkCreateXMLFlags, d.networkCreateXMLFlags)
	on(reg, rpc.ProcNetworkDefineXML, d.networkDefineXML)
	on(reg, rpc.ProcNetworkDefineXMLFlags, d.networkDefineXMLFlags)
	on(reg, rpc.ProcNetworkCreate, d.networkCreate)
	on(reg, rpc.ProcNetworkDestroy, d.networkDestroy)
	on(reg, rpc.ProcNetworkUndefine, d.networkUndefine)
	on(reg, rpc.ProcNetworkUpdate, d.networkUpdate)
	on(reg, rpc.ProcNetworkGetXMLDesc, d.networkGetXMLDesc)
	on(reg, rpc.ProcNetworkGetBridgeName, d.networkGetBridgeName)
	on(reg, rpc.ProcNetworkGetAutostart, d.networkGetAutostart)
	on(reg, rpc.ProcNetworkSetAutostart, d.networkSetAutostart)
	on(reg, rpc.ProcNetworkIsActive, d.networkIsActive)
	on(reg, rpc.ProcNetworkIsPersistent, d.networkIsPersistent)
	on(reg, rpc.ProcNetworkGetDhcpLeases, d.networkGetDHCPLeases)
	d.registerNetworkPorts(reg)
}

// network finds the network that a call is about.
func (d *Daemon) network(ref libvirt.Network) (*network.Network, error) {
	n, err := d.cfg.Networks.LookupByUUID(uuid.UUID(ref.UUID))
	if err != nil {
		return nil, virterr.NewFrom(virterr.FromNetwork, virterr.NoNetwork, "no network with matching uuid '%s' (%s)", uuid.UUID(ref.UUID), ref.Name)
	}
	return n, nil
}

// networkDo is a call that does one thing with a network.
func (d *Daemon) networkDo(ref libvirt.Network, do func(*network.Network) error) (*none, error) {
	n, err := d.network(ref)
	if err != nil {
		return nil, err
	}
	return nil, do(n)
}

func wireNetwork(n *network.Network) libvirt.Network {
	return libvirt.Network{Name: n.Name(), UUID: libvirt.UUID(n.UUID())}
}

func (d *Daemon) listAllNetworks(_ context.Context, _ *rpc.Call, a *libvirt.ConnectListAllNetworksArgs) (*libvirt.ConnectListAllNetworksRet, error) {
	if err := onlyFlags(uint32(a.Flags), uint32(network.ListKnown), "virConnectListAllNetworks"); err != nil {
		return nil, err
	}
	list := d.cfg.Networks.List(network.ListFlags(a.Flags))
	ret := &libvirt.ConnectListAllNetworksRet{Ret: uint32(len(list))}
	if a.NeedResults != 0 {
		for _, n := range list {
			ret.Nets = append(ret.Nets, wireNetwork(n))
		}
	}
	return ret, nil
}

func (d *Daemon) numOfNetworks(context.Context, *rpc.Call, *none) (*libvirt.ConnectNumOfNetworksRet, error) {
	return &libvirt.ConnectNumOfNetworksRet{Num: int32(len(d.cfg.Networks.List(network.ListActive)))}, nil
}

func (d *Daemon) numOfDefinedNetworks(context.Context, *rpc.Call, *none) (*libvirt.ConnectNumOfDefinedNetworksRet, error) {
	return &libvirt.ConnectNumOfDefinedNetworksRet{Num: int32(len(d.cfg.Networks.List(network.ListInactive)))}, nil
}

func (d *Daemon) listNetworks(_ context.Context, _ *rpc.Call, a *libvirt.ConnectListNetworksArgs) (*libvirt.ConnectListNetworksRet, error) {
	return &libvirt.ConnectListNetworksRet{Names: networkNames(d.cfg.Networks.List(network.ListActive), a.Maxnames)}, nil
}

func (d *Daemon) listDefinedNetworks(_ context.Context, _ *rpc.Call, a *libvirt.ConnectListDefinedNetworksArgs) (*libvirt.ConnectListDefinedNetworksRet, error) {
	return &libvirt.ConnectListDefinedNetworksRet{Names: networkNames(d.cfg.Networks.List(network.ListInactive), a.Maxnames)}, nil
}

func networkNames(list []*network.Network, most int32) []string {
	var names []string
	for _, n := range list {
		if len(names) < int(most) {
			names = append(names, n.Name())
		}
	}
	return names
}

func (d *Daemon) networkLookupByName(_ context.Context, _ *rpc.Call, a *libvirt.NetworkLookupByNameArgs) (*libvirt.NetworkLookupByNameRet, error) {
	n, err := d.cfg.Networks.LookupByName(a.Name)
	if err != nil {
		return nil, err
	}
	return &libvirt.NetworkLookupByNameRet{Net: wireNetwork(n)}, nil
}

func (d *Daemon) networkLookupByUUID(_ context.Context, _ *rpc.Call, a *libvirt.NetworkLookupByUUIDArgs) (*libvirt.NetworkLookupByUUIDRet, error) {
	n, err := d.cfg.Networks.LookupByUUID(uuid.UUID(a.UUID))
	if err != nil {
		return nil, err
	}
	return &libvirt.NetworkLookupByUUIDRet{Net: wireNetwork(n)}, nil
}

func (d *Daemon) networkCreateXML(_ context.Context, _ *rpc.Call, a *libvirt.NetworkCreateXMLArgs) (*libvirt.NetworkCreateXMLRet, error) {
	n, err := d.cfg.Networks.Create(a.XML)
	if err != nil {
		return nil, err
	}
	return &libvirt.NetworkCreateXMLRet{Net: wireNetwork(n)}, nil
}

// networkValidate asks for a check against the schema (VIR_NETWORK_CREATE_VALIDATE, VIR_NETWORK_DEFINE_VALIDATE). Unknown
// words are refused anyway.
const networkValidate = 1

func (d *Daemon) networkCreateXMLFlags(_ context.Context, _ *rpc.Call, a *libvirt.NetworkCreateXMLFlagsArgs) (*libvirt.NetworkCreateXMLFlagsRet, error) {
	if err := onlyFlags(a.Flags, networkValidate, "virNetworkCreateXMLFlags"); err != nil {
		return nil, err
	}
	n, err := d.cfg.Networks.Create(a.XML)
	if err != nil {
		return nil, err
	}
	return &libvirt.NetworkCreateXMLFlagsRet{Net: wireNetwork(n)}, nil
}

func (d *Daemon) networkDefineXML(_ context.Context, _ *rpc.Call, a *libvirt.NetworkDefineXMLArgs) (*libvirt.NetworkDefineXMLRet, error) {
	n, err := d.cfg.Networks.Define(a.XML)
	if err != nil {
		return nil, err
	}
	return &libvirt.NetworkDefineXMLRet{Net: wireNetwork(n)}, nil
}

func (d *Daemon) networkDefineXMLFlags(_ context.Context, _ *rpc.Call, a *libvirt.NetworkDefineXMLFlagsArgs) (*libvirt.NetworkDefineXMLFlagsRet, error) {
	if err := onlyFlags(a.Flags, networkValidate, "virNetworkDefineXMLFlags"); err != nil {
		return nil, err
	}
	n, err := d.cfg.Networks.Define(a.XML)
	if err != nil {
		return nil, err
	}
	return &libvirt.NetworkDefineXMLFlagsRet{Net: wireNetwork(n)}, nil
}

func (d *Daemon) networkCreate(_ context.Context, _ *rpc.Call, a *libvirt.NetworkCreateArgs) (*none, error) {
	return d.networkDo(a.Net, (*network.Network).Start)
}

func (d *Daemon) networkDestroy(_ context.Context, _ *rpc.Call, a *libvirt.NetworkDestroyArgs) (*none, error) {
	return d.networkDo(a.Net, (*network.Network).Destroy)
}

func (d *Daemon) networkUndefine(_ context.Context, _ *rpc.Call, a *libvirt.NetworkUndefineArgs) (*none, error) {
	return d.networkDo(a.Net, (*network.Network).Undefine)
}

func (d *Daemon) networkUpdate(_ context.Context, _ *rpc.Call, a *libvirt.NetworkUpdateArgs) (*none, error) {
	if err := onlyFlags(uint32(a.Flags), uint32(network.AffectLive|network.AffectConfig), "virNetworkUpdate"); err != nil {
		return nil, err
	}
	return d.networkDo(a.Net, func(n *network.Network) error {
		c := network.Change{Command: network.Command(a.Command), Section: network.Section(a.Section), Index: int(a.ParentIndex), XML: a.XML}
		return n.Update(c, network.Affect(a.Flags))
	})
}

func (d *Daemon) networkGetXMLDesc(_ context.Context, _ *rpc.Call, a *libvirt.NetworkGetXMLDescArgs) (*libvirt.NetworkGetXMLDescRet, error) {
	const inactive = 1 // VIR_NETWORK_XML_INACTIVE
	if err := onlyFlags(a.Flags, inactive, "virNetworkGetXMLDesc"); err != nil {
		return nil, err
	}
	n, err := d.network(a.Net)
	if err != nil {
		return nil, err
	}
	xml, err := n.XML(a.Flags&inactive != 0)
	if err != nil {
		return nil, err
	}
	return &libvirt.NetworkGetXMLDescRet{XML: xml}, nil
}

func (d *Daemon) networkGetBridgeName(_ context.Context, _ *rpc.Call, a *libvirt.NetworkGetBridgeNameArgs) (*libvirt.NetworkGetBridgeNameRet, error) {
	n, err := d.network(a.Net)
	if err != nil {
		return nil, err
	}
	name, err := n.Bridge()
	if err != nil {
		return nil, err
	}
	return &libvirt.NetworkGetBridgeNameRet{Name: name}, nil
}

func (d *Daemon) networkGetAutostart(_ context.Context, _ *rpc.Call, a *libvirt.NetworkGetAutostartArgs) (*libvirt.NetworkGetAutostartRet, error) {
	n, err := d.network(a.Net)
	if err != nil {
		return nil, err
	}
	return &libvirt.NetworkGetAutostartRet{Autostart: boolean(n.Autostart())}, nil
}

func (d *Daemon) networkSetAutostart(_ context.Context, _ *rpc.Call, a *libvirt.NetworkSetAutostartArgs) (*none, error) {
	return d.networkDo(a.Net, func(n *network.Network) error { return n.SetAutostart(a.Autostart != 0) })
}

func (d *Daemon) networkIsActive(_ context.Context, _ *rpc.Call, a *libvirt.NetworkIsActiveArgs) (*libvirt.NetworkIsActiveRet, error) {
	n, err := d.network(a.Net)
	if err != nil {
		return nil, err
	}
	return &libvirt.NetworkIsActiveRet{Active: boolean(n.Active())}, nil
}

func (d *Daemon) networkIsPersistent(_ context.Context, _ *rpc.Call, a *libvirt.NetworkIsPersistentArgs) (*libvirt.NetworkIsPersistentRet, error) {
	n, err := d.network(a.Net)
	if err != nil {
		return nil, err
	}
	return &libvirt.NetworkIsPersistentRet{Persistent: boolean(n.Persistent())}, nil
}
