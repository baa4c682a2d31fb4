package daemon

import (
	"context"
	"strings"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/network/hostif"
	"virtd/rpc"
	"virtd/virterr"
)

// registerInterfaces answers for the host's network interfaces, which are looked at and never changed: their configuration is
// the distribution's.
func (d *Daemon) registerInterfaces(reg *rpc.Registry) {
	if d.cfg.Interfaces == nil {
		return
	}
	on(reg, rpc.ProcConnectListAllInterfaces, d.listAllInterfaces)
	on(reg, rpc.ProcConnectNumOfInterfaces, d.numOfInterfaces)
	on(reg, rpc.ProcConnectListInterfaces, d.listInterfaces)
	on(reg, rpc.ProcConnectNumOfDefinedInterfaces, d.numOfDefinedInterfaces)
	on(reg, rpc.ProcConnectListDefinedInterfaces, d.listDefinedInterfaces)
	on(reg, rpc.ProcInterfaceLookupByName, d.interfaceLookupByName)
	on(reg, rpc.ProcInterfaceLookupByMacString, d.interfaceLookupByMAC)
	on(reg, rpc.ProcInterfaceGetXMLDesc, d.interfaceGetXMLDesc)
	on(reg, rpc.ProcInterfaceIsActive, d.interfaceIsActive)
	on(reg, rpc.ProcInterfaceDefineXML, readOnlyInterfaces[libvirt.InterfaceDefineXMLArgs, libvirt.InterfaceDefineXMLRet])
	on(reg, rpc.ProcInterfaceUndefine, readOnlyInterfaces[libvirt.InterfaceUndefineArgs, none])
	on(reg, rpc.ProcInterfaceCreate, readOnlyInterfaces[libvirt.InterfaceCreateArgs, none])
	on(reg, rpc.ProcInterfaceDestroy, readOnlyInterfaces[libvirt.InterfaceDestroyArgs, none])
	on(reg, rpc.ProcInterfaceChangeBegin, readOnlyInterfaces[libvirt.InterfaceChangeBeginArgs, none])
	on(reg, rpc.ProcInterfaceChangeCommit, readOnlyInterfaces[libvirt.InterfaceChangeCommitArgs, none])
	on(reg, rpc.ProcInterfaceChangeRollback, readOnlyInterfaces[libvirt.InterfaceChangeRollbackArgs, none])
}

// readOnlyInterfaces refuses a change.
func readOnlyInterfaces[A, R any](context.Context, *rpc.Call, *A) (*R, error) {
	return nil, interfaceError(virterr.OperationUnsupported,
		"the host's network interfaces are only listed; configure them with the host's own tools")
}

func interfaceError(code virterr.Code, format string, args ...any) error {
	return virterr.NewFrom(virterr.FromInterface, code, format, args...)
}

func wireInterface(i *hostif.Interface) libvirt.Interface {
	return libvirt.Interface{Name: i.Name, Mac: i.MAC}
}

// interfaces returns those that are active, those that are not, or both.
func (d *Daemon) interfaces(active, inactive bool) ([]*hostif.Interface, error) {
	all, err := d.cfg.Interfaces()
	if err != nil {
		return nil, interfaceError(virterr.SystemError, "%w", err)
	}
	var list []*hostif.Interface
	for _, i := range all {
		if i.Active && active || !i.Active && inactive {
			list = append(list, i)
		}
	}
	return list, nil
}

func (d *Daemon) listAllInterfaces(_ context.Context, _ *rpc.Call, a *libvirt.ConnectListAllInterfacesArgs) (*libvirt.ConnectListAllInterfacesRet, error) {
	const inactive, active = uint32(libvirt.ConnectListInterfacesInactive), uint32(libvirt.ConnectListInterfacesActive)
	flags := uint32(a.Flags)
	if err := onlyFlags(flags, active|inactive, "virConnectListAllInterfaces"); err != nil {
		return nil, err
	}
	list, err := d.interfaces(flags == 0 || flags&active != 0, flags == 0 || flags&inactive != 0)
	if err != nil {
		return nil, err
	}
	ret := &libvirt.ConnectListAllInterfacesRet{Ret: uint32(len(list))}
	if a.NeedResults != 0 {
		for _, i := range list {
			ret.Ifaces = append(ret.Ifaces, wireInterface(i))
		}
	}
	return ret, nil
}

func (d *Daemon) numOfInterfaces(context.Context, *rpc.Call, *none) (*libvirt.ConnectNumOfInterfacesRet, error) {
	list, err := d.interfaces(true, false)
	return &libvirt.ConnectNumOfInterfacesRet{Num: int32(len(list))}, err
}

func (d *Daemon) numOfDefinedInterfaces(context.Context, *rpc.Call, *none) (*libvirt.ConnectNumOfDefinedInterfacesRet, error) {
	list, err := d.interfaces(false, true)
	return &libvirt.ConnectNumOfDefinedInterfacesRet{Num: int32(len(list))}, err
}

func (d *Daemon) listInterfaces(_ context.Context, _ *rpc.Call, a *libvirt.ConnectListInterfacesArgs) (*libvirt.ConnectListInterfacesRet, error) {
	list, err := d.interfaces(true, false)
	return &libvirt.ConnectListInterfacesRet{Names: interfaceNames(list, a.Maxnames)}, err
}

func (d *Daemon) listDefinedInterfaces(_ context.Context, _ *rpc.Call, a *libvirt.ConnectListDefinedInterfacesArgs) (*libvirt.ConnectListDefinedInterfacesRet, error) {
	list, err := d.interfaces(false, true)
	return &libvirt.ConnectListDefinedInterfacesRet{Names: interfaceNames(list, a.Maxnames)}, err
}

func interfaceNames(list []*hostif.Interface, room int32) []string {
	var names []string
	for _, i := range list {
		if len(names) < int(room) {
			names = append(names, i.Name)
		}
	}
	return names
}

func (d *Daemon) interfaceNamed(name string) (*hostif.Interface, error) {
	list, err := d.interfaces(true, true)
	if err != nil {
		return nil, err
	}
	for _, i := range list {
		if i.Name == name {
			return i, nil
		}
	}
	return nil, interfaceError(virterr.NoInterface, "couldn't find interface named '%s'", name)
}

func (d *Daemon) interfaceLookupByName(_ context.Context, _ *rpc.Call, a *libvirt.InterfaceLookupByNameArgs) (*libvirt.InterfaceLookupByNameRet, error) {
	i, err := d.interfaceNamed(a.Name)
	if err != nil {
		return nil, err
	}
	return &libvirt.InterfaceLookupByNameRet{Iface: wireInterface(i)}, nil
}

func (d *Daemon) interfaceLookupByMAC(_ context.Context, _ *rpc.Call, a *libvirt.InterfaceLookupByMacStringArgs) (*libvirt.InterfaceLookupByMacStringRet, error) {
	list, err := d.interfaces(true, true)
	if err != nil {
		return nil, err
	}
	var found []*hostif.Interface
	for _, i := range list {
		if strings.EqualFold(i.MAC, a.Mac) {
			found = append(found, i)
		}
	}
	switch len(found) {
	case 0:
		return nil, interfaceError(virterr.NoInterface, "couldn't find interface with MAC address '%s'", a.Mac)
	case 1:
		return &libvirt.InterfaceLookupByMacStringRet{Iface: wireInterface(found[0])}, nil
	}
	return nil, interfaceError(virterr.MultipleInterfaces, "the MAC address '%s' matches %d interfaces", a.Mac, len(found))
}

func (d *Daemon) interfaceGetXMLDesc(_ context.Context, _ *rpc.Call, a *libvirt.InterfaceGetXMLDescArgs) (*libvirt.InterfaceGetXMLDescRet, error) {
	const inactive = uint32(libvirt.InterfaceXMLInactive)
	if err := onlyFlags(a.Flags, inactive, "virInterfaceGetXMLDesc"); err != nil {
		return nil, err
	}
	i, err := d.interfaceNamed(a.Iface.Name)
	if err != nil {
		return nil, err
	}
	return &libvirt.InterfaceGetXMLDescRet{XML: i.XML(a.Flags&inactive == 0)}, nil
}

func (d *Daemon) interfaceIsActive(_ context.Context, _ *rpc.Call, a *libvirt.InterfaceIsActiveArgs) (*libvirt.InterfaceIsActiveRet, error) {
	i, err := d.interfaceNamed(a.Iface.Name)
	if err != nil {
		return nil, err
	}
	return &libvirt.InterfaceIsActiveRet{Active: boolean(i.Active)}, nil
}
