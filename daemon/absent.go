package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"virtd/rpc"
	"virtd/virterr"
)

// registerAbsent answers for what can be defined on a libvirt host and cannot here: filters. The standard ones, which interfaces
// name (network/firewall), are not listed. Clients start with these lists.
func (d *Daemon) registerAbsent(reg *rpc.Registry) {
	on(reg, rpc.ProcConnectListAllNwfilters, empty[libvirt.ConnectListAllNwfiltersArgs, libvirt.ConnectListAllNwfiltersRet])
	on(reg, rpc.ProcConnectNumOfNwfilters, empty[none, libvirt.ConnectNumOfNwfiltersRet])
	on(reg, rpc.ProcConnectListNwfilters, empty[libvirt.ConnectListNwfiltersArgs, libvirt.ConnectListNwfiltersRet])
	on(reg, rpc.ProcConnectListAllNwfilterBindings, empty[libvirt.ConnectListAllNwfilterBindingsArgs, libvirt.ConnectListAllNwfilterBindingsRet])

	on(reg, rpc.ProcNwfilterLookupByName, missing[libvirt.NwfilterLookupByNameArgs, libvirt.NwfilterLookupByNameRet](func(a *libvirt.NwfilterLookupByNameArgs) error {
		return virterr.NewFrom(virterr.FromNWFilter, virterr.NoNWFilter, "no nwfilter with matching name '%s'", a.Name)
	}))
	on(reg, rpc.ProcNwfilterLookupByUUID, missing[libvirt.NwfilterLookupByUUIDArgs, libvirt.NwfilterLookupByUUIDRet](func(a *libvirt.NwfilterLookupByUUIDArgs) error {
		return virterr.NewFrom(virterr.FromNWFilter, virterr.NoNWFilter, "no nwfilter with matching uuid '%s'", uuid.UUID(a.UUID))
	}))
	on(reg, rpc.ProcNwfilterBindingLookupByPortDev, missing[libvirt.NwfilterBindingLookupByPortDevArgs, libvirt.NwfilterBindingLookupByPortDevRet](func(a *libvirt.NwfilterBindingLookupByPortDevArgs) error {
		return virterr.NewFrom(virterr.FromNWFilter, virterr.NoNWFilterBinding, "no nwfilter binding for port dev '%s'", a.Name)
	}))
}

// empty answers with nothing: no objects, and 0 of them.
func empty[A, R any](context.Context, *rpc.Call, *A) (*R, error) { return new(R), nil }

// missing answers every lookup with not found.
func missing[A, R any](text func(*A) error) func(context.Context, *rpc.Call, *A) (*R, error) {
	return func(_ context.Context, _ *rpc.Call, a *A) (*R, error) { return nil, text(a) }
}
