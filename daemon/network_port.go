package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"virtd/domain/manager"
	"virtd/network"
	"virtd/network/portconf"
	"virtd/rpc"
)

// registerNetworkPorts adds the procedures of the ports on a network, those of domains and those that clients make.
func (d *Daemon) registerNetworkPorts(reg *rpc.Registry) {
	on(reg, rpc.ProcNetworkListAllPorts, d.networkListAllPorts)
	on(reg, rpc.ProcNetworkPortLookupByUUID, d.networkPortLookupByUUID)
	on(reg, rpc.ProcNetworkPortGetXMLDesc, d.networkPortGetXMLDesc)
	on(reg, rpc.ProcNetworkPortCreateXML, d.networkPortCreateXML)
	on(reg, rpc.ProcNetworkPortDelete, d.networkPortDelete)
	on(reg, rpc.ProcNetworkPortGetParameters, d.networkPortGetParameters)
	on(reg, rpc.ProcNetworkPortSetParameters, d.networkPortSetParameters)
}

func (d *Daemon) networkListAllPorts(_ context.Context, _ *rpc.Call, a *libvirt.NetworkListAllPortsArgs) (*libvirt.NetworkListAllPortsRet, error) {
	if err := noFlags(a.Flags, "virNetworkListAllPorts"); err != nil {
		return nil, err
	}
	n, err := d.network(a.OptNetwork)
	if err != nil {
		return nil, err
	}
	ports, err := n.Ports()
	if err != nil {
		return nil, err
	}
	ret := &libvirt.NetworkListAllPortsRet{Ret: uint32(len(ports))}
	if a.NeedResults != 0 {
		for _, p := range ports {
			ret.Ports = append(ret.Ports, wirePort(n, p))
		}
	}
	return ret, nil
}

func wirePort(n *network.Network, p *network.Port) libvirt.NetworkPort {
	return libvirt.NetworkPort{Net: wireNetwork(n), UUID: libvirt.UUID(p.UUID)}
}

// port finds the port that a call is about.
func (d *Daemon) port(ref libvirt.Network, id libvirt.UUID) (*network.Network, *network.Port, error) {
	n, err := d.network(ref)
	if err != nil {
		return nil, nil, err
	}
	p, err := n.Port(uuid.UUID(id))
	return n, p, err
}

func (d *Daemon) networkPortLookupByUUID(_ context.Context, _ *rpc.Call, a *libvirt.NetworkPortLookupByUUIDArgs) (*libvirt.NetworkPortLookupByUUIDRet, error) {
	n, p, err := d.port(a.OptNetwork, a.UUID)
	if err != nil {
		return nil, err
	}
	return &libvirt.NetworkPortLookupByUUIDRet{Port: wirePort(n, p)}, nil
}

func (d *Daemon) networkPortGetXMLDesc(_ context.Context, _ *rpc.Call, a *libvirt.NetworkPortGetXMLDescArgs) (*libvirt.NetworkPortGetXMLDescRet, error) {
	if err := noFlags(a.Flags, "virNetworkPortGetXMLDesc"); err != nil {
		return nil, err
	}
	_, p, err := d.port(a.Port.Net, a.Port.UUID)
	if err != nil {
		return nil, err
	}
	return &libvirt.NetworkPortGetXMLDescRet{XML: p.XML()}, nil
}

func (d *Daemon) networkPortCreateXML(_ context.Context, _ *rpc.Call, a *libvirt.NetworkPortCreateXMLArgs) (*libvirt.NetworkPortCreateXMLRet, error) {
	if err := onlyFlags(a.Flags, uint32(network.PortKnown), "virNetworkPortCreateXML"); err != nil {
		return nil, err
	}
	n, err := d.network(a.OptNetwork)
	if err != nil {
		return nil, err
	}
	p, err := n.CreatePort(a.XML, network.PortFlags(a.Flags))
	if err != nil {
		return nil, err
	}
	return &libvirt.NetworkPortCreateXMLRet{Port: wirePort(n, p)}, nil
}

func (d *Daemon) networkPortDelete(_ context.Context, _ *rpc.Call, a *libvirt.NetworkPortDeleteArgs) (*none, error) {
	if err := noFlags(a.Flags, "virNetworkPortDelete"); err != nil {
		return nil, err
	}
	return d.networkDo(a.Port.Net, func(n *network.Network) error { return n.DeletePort(uuid.UUID(a.Port.UUID)) })
}

// networkPortSetParameters sets the rates of both directions: one that it does not name has none afterwards. Those of a
// domain's port are its interface's, and change with that.
func (d *Daemon) networkPortSetParameters(ctx context.Context, _ *rpc.Call, a *libvirt.NetworkPortSetParametersArgs) (*none, error) {
	if err := noFlags(a.Flags, "virNetworkPortSetParameters"); err != nil {
		return nil, err
	}
	n, p, err := d.port(a.Port.Net, a.Port.UUID)
	if err != nil {
		return nil, err
	}
	in, out, err := readRates(a.Params)
	if err != nil {
		return nil, err
	}
	var b portconf.Bandwidth
	if in != nil {
		b.In = *in
	}
	if out != nil {
		b.Out = *out
	}
	if p.Client {
		return nil, n.LimitPort(p.UUID, b)
	}
	dom, err := d.cfg.Manager.LookupByUUID(p.Owner.UUID)
	if err != nil {
		return nil, err
	}
	return nil, dom.SetInterfaceBandwidth(ctx, p.MAC, &b.In, &b.Out, manager.AffectLive)
}

// networkPortGetParameters tells the rates of a port, 0 for none. libvirt leaves out directions that have none; but its clients
// in Python set only what they were told of.
func (d *Daemon) networkPortGetParameters(_ context.Context, _ *rpc.Call, a *libvirt.NetworkPortGetParametersArgs) (*libvirt.NetworkPortGetParametersRet, error) {
	if err := noFlags(a.Flags, "virNetworkPortGetParameters"); err != nil {
		return nil, err
	}
	_, p, err := d.port(a.Port.Net, a.Port.UUID)
	if err != nil {
		return nil, err
	}
	ret, limits := &libvirt.NetworkPortGetParametersRet{}, p.Limits
	for _, r := range rates(&limits.In, &limits.Out) {
		ret.Params = append(ret.Params, uintParam(r.name, uint32(*r.to)))
	}
	ret.Nparams = int32(len(ret.Params))
	return ret, nil
}
