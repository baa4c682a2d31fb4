package daemon

import (
	"context"
	"strings"
	"time"

	"virtd/domain/manager"
	"virtd/network/bridge"
	"virtd/network/hostnet"
	"virtd/rpc"
	"virtd/virterr"
)

// registerBridges adds what makes and changes bridges of the host, which libvirt has no procedures for.
func (d *Daemon) registerBridges(reg *rpc.Registry) {
	if d.cfg.Bridges != nil {
		rpc.Handle(reg, rpc.ProgramPrivate, rpc.PrivProcBridgeList, d.bridgeList)
		rpc.Handle(reg, rpc.ProgramPrivate, rpc.PrivProcBridgeCreate, d.bridgeCreate)
		rpc.Handle(reg, rpc.ProgramPrivate, rpc.PrivProcBridgeDelete, d.bridgeDelete)
		rpc.Handle(reg, rpc.ProgramPrivate, rpc.PrivProcBridgePort, d.bridgePort)
		rpc.Handle(reg, rpc.ProgramPrivate, rpc.PrivProcBridgeConfirm, d.bridgeConfirm)
	}
	if d.cfg.Links != nil {
		rpc.Handle(reg, rpc.ProgramPrivate, rpc.PrivProcTapList, d.tapList)
	}
}

// Bridges are the host's, as hostnet.Changer has them.
type Bridges interface {
	Bridges() ([]hostnet.Bridge, error)
	Create(bridge.BridgeConfig) error
	Delete(name string) error
	AddPort(bridge, port string, wait time.Duration) (pending bool, err error)
	RemovePort(bridge, port string, wait time.Duration) (pending bool, err error)
	Confirm(port string) error
}

func (d *Daemon) bridgeList(_ context.Context, _ *rpc.Call, a *rpc.PrivBridgeListArgs) (*rpc.PrivBridgeListRet, error) {
	if err := noFlags(a.Flags, "virtdBridgeList"); err != nil {
		return nil, err
	}
	list, err := d.cfg.Bridges.Bridges()
	if err != nil {
		return nil, err
	}
	ret := &rpc.PrivBridgeListRet{}
	for _, b := range list {
		row := rpc.PrivBridge{Name: b.Name, MAC: b.MAC, MTU: uint32(b.MTU), Network: b.Owner, Addresses: b.Addresses, Ports: b.Ports}
		for flag, set := range map[uint32]bool{rpc.PrivBridgeUp: b.Up, rpc.PrivBridgeSTP: b.STP, rpc.PrivBridgeVLANs: b.VLANs} {
			if set {
				row.Flags |= flag
			}
		}
		ret.Bridges = append(ret.Bridges, row)
	}
	return ret, nil
}

func (d *Daemon) bridgeCreate(_ context.Context, _ *rpc.Call, a *rpc.PrivBridgeCreateArgs) (*none, error) {
	if err := onlyFlags(a.Flags, rpc.PrivBridgeSTP|rpc.PrivBridgeVLANs, "virtdBridgeCreate"); err != nil {
		return nil, err
	}
	if a.MTU != 0 && (a.MTU < 68 || a.MTU > 65535) {
		return nil, virterr.New(virterr.InvalidArg, "MTU %d must be from 68 to 65535", a.MTU)
	}
	return &none{}, d.cfg.Bridges.Create(bridge.BridgeConfig{
		Name: a.Name, MTU: int(a.MTU), STP: a.Flags&rpc.PrivBridgeSTP != 0, VLANFiltering: a.Flags&rpc.PrivBridgeVLANs != 0,
	})
}

func (d *Daemon) bridgeDelete(_ context.Context, _ *rpc.Call, a *rpc.PrivBridgeDeleteArgs) (*none, error) {
	if err := noFlags(a.Flags, "virtdBridgeDelete"); err != nil {
		return nil, err
	}
	return &none{}, d.cfg.Bridges.Delete(a.Name)
}

func (d *Daemon) bridgePort(_ context.Context, _ *rpc.Call, a *rpc.PrivBridgePortArgs) (*rpc.PrivBridgePortRet, error) {
	if err := onlyFlags(a.Flags, rpc.PrivRemovePort, "virtdBridgePort"); err != nil {
		return nil, err
	}
	do := d.cfg.Bridges.AddPort
	if a.Flags&rpc.PrivRemovePort != 0 {
		do = d.cfg.Bridges.RemovePort
	}
	waits, err := do(a.Bridge, a.Port, time.Duration(a.Wait)*time.Second)
	if err != nil {
		return nil, err
	}
	return &rpc.PrivBridgePortRet{Waits: uint32(boolean(waits))}, nil
}

func (d *Daemon) bridgeConfirm(_ context.Context, _ *rpc.Call, a *rpc.PrivBridgeConfirmArgs) (*none, error) {
	if err := noFlags(a.Flags, "virtdBridgeConfirm"); err != nil {
		return nil, err
	}
	return &none{}, d.cfg.Bridges.Confirm(a.Port)
}

func (d *Daemon) tapList(_ context.Context, _ *rpc.Call, a *rpc.PrivTapListArgs) (*rpc.PrivTapListRet, error) {
	if err := noFlags(a.Flags, "virtdTapList"); err != nil {
		return nil, err
	}
	links, err := d.cfg.Links()
	if err != nil {
		return nil, err
	}
	type user struct{ domain, mac string }
	users := map[string]user{}
	for _, dom := range d.mgr.List(manager.ListActive) {
		nics, err := dom.Interfaces()
		if err != nil {
			continue // it ended meanwhile
		}
		for _, nic := range nics {
			users[nic.Host] = user{dom.Name(), strings.ToLower(nic.MAC)}
		}
	}
	ret := &rpc.PrivTapListRet{}
	for _, l := range links {
		if l.Kind != "tuntap" && l.Kind != "macvtap" {
			continue
		}
		u := users[l.Name]
		ret.Taps = append(ret.Taps, rpc.PrivTap{Name: l.Name, Kind: l.Kind, Bridge: l.Bridge, MAC: l.MAC.String(), Guest: u.mac, Domain: u.domain,
			MTU: uint32(l.MTU), Up: uint32(boolean(l.Up))})
	}
	return ret, nil
}
