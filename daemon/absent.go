package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"virtd/rpc"
	"virtd/virterr"
)

// registerAbsent answers for what can be defined on a libvirt host and cannot here yet: secrets and filters. That none
// exist is the truth, and clients start with these lists. What every host has, such as its interfaces, is not answered for: an empty list of them would be a lie.
func (d *Daemon) registerAbsent(reg *rpc.Registry) {
	on(reg, rpc.ProcConnectListAllSecrets, empty[libvirt.ConnectListAllSecretsArgs, libvirt.ConnectListAllSecretsRet])
	on(reg, rpc.ProcConnectNumOfSecrets, empty[none, libvirt.ConnectNumOfSecretsRet])
	on(reg, rpc.ProcConnectListSecrets, empty[libvirt.ConnectListSecretsArgs, libvirt.ConnectListSecretsRet])
	on(reg, rpc.ProcConnectListAllNwfilters, empty[libvirt.ConnectListAllNwfiltersArgs, libvirt.ConnectListAllNwfiltersRet])
	on(reg, rpc.ProcConnectNumOfNwfilters, empty[none, libvirt.ConnectNumOfNwfiltersRet])
	on(reg, rpc.ProcConnectListNwfilters, empty[libvirt.ConnectListNwfiltersArgs, libvirt.ConnectListNwfiltersRet])
	on(reg, rpc.ProcConnectListAllNwfilterBindings, empty[libvirt.ConnectListAllNwfilterBindingsArgs, libvirt.ConnectListAllNwfilterBindingsRet])

	on(reg, rpc.ProcSecretLookupByUUID, missing[libvirt.SecretLookupByUUIDArgs, libvirt.SecretLookupByUUIDRet](func(a *libvirt.SecretLookupByUUIDArgs) error {
		return virterr.NewFrom(virterr.FromSecret, virterr.NoSecret, "no secret with matching uuid '%s'", uuid.UUID(a.UUID))
	}))
	on(reg, rpc.ProcSecretLookupByUsage, missing[libvirt.SecretLookupByUsageArgs, libvirt.SecretLookupByUsageRet](func(a *libvirt.SecretLookupByUsageArgs) error {
		return virterr.NewFrom(virterr.FromSecret, virterr.NoSecret, "no secret with matching usage '%s'", a.UsageID)
	}))
}

// empty answers with nothing: no objects, and 0 of them.
func empty[A, R any](context.Context, *rpc.Call, *A) (*R, error) { return new(R), nil }

// missing answers every lookup with not found.
func missing[A, R any](text func(*A) error) func(context.Context, *rpc.Call, *A) (*R, error) {
	return func(_ context.Context, _ *rpc.Call, a *A) (*R, error) { return nil, text(a) }
}
