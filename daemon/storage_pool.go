package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"virtd/rpc"
	"virtd/storage"
	"virtd/virterr"
)

// registerStoragePools adds the procedures of pools, where the daemon has any storage to manage.
func (d *Daemon) registerStoragePools(reg *rpc.Registry) {
	if d.cfg.Storage == nil {
		return
	}
	on(reg, rpc.ProcConnectListAllStoragePools, d.listAllStoragePools)
	on(reg, rpc.ProcConnectNumOfStoragePools, d.numOfStoragePools)
	on(reg, rpc.ProcConnectListStoragePools, d.listStoragePools)
	on(reg, rpc.ProcConnectNumOfDefinedStoragePools, d.numOfDefinedStoragePools)
	on(reg, rpc.ProcConnectListDefinedStoragePools, d.listDefinedStoragePools)
	on(reg, rpc.ProcConnectGetStoragePoolCapabilities, d.storagePoolCapabilities)
	on(reg, rpc.ProcConnectFindStoragePoolSources, d.findStoragePoolSources)
	on(reg, rpc.ProcStoragePoolLookupByName, d.storagePoolLookupByName)
	on(reg, rpc.ProcStoragePoolLookupByUUID, d.storagePoolLookupByUUID)
	on(reg, rpc.ProcStoragePoolLookupByVolume, d.storagePoolLookupByVolume)
	on(reg, rpc.ProcStoragePoolLookupByTargetPath, d.storagePoolLookupByTargetPath)
	on(reg, rpc.ProcStoragePoolCreateXML, d.storagePoolCreateXML)
	on(reg, rpc.ProcStoragePoolDefineXML, d.storagePoolDefineXML)
	on(reg, rpc.ProcStoragePoolCreate, d.storagePoolCreate)
	on(reg, rpc.ProcStoragePoolBuild, d.storagePoolBuild)
	on(reg, rpc.ProcStoragePoolDestroy, d.storagePoolDestroy)
	on(reg, rpc.ProcStoragePoolDelete, d.storagePoolDelete)
	on(reg, rpc.ProcStoragePoolUndefine, d.storagePoolUndefine)
	on(reg, rpc.ProcStoragePoolRefresh, d.storagePoolRefresh)
	on(reg, rpc.ProcStoragePoolGetInfo, d.storagePoolGetInfo)
	on(reg, rpc.ProcStoragePoolGetXMLDesc, d.storagePoolGetXMLDesc)
	on(reg, rpc.ProcStoragePoolGetAutostart, d.storagePoolGetAutostart)
	on(reg, rpc.ProcStoragePoolSetAutostart, d.storagePoolSetAutostart)
	on(reg, rpc.ProcStoragePoolIsActive, d.storagePoolIsActive)
	on(reg, rpc.ProcStoragePoolIsPersistent, d.storagePoolIsPersistent)
}

// pool finds the pool that a call is about.
func (d *Daemon) pool(ref libvirt.StoragePool) (*storage.Pool, error) {
	p, err := d.cfg.Storage.LookupByUUID(uuid.UUID(ref.UUID))
	if err != nil {
		return nil, virterr.NewFrom(virterr.FromStorage, virterr.NoStoragePool, "no storage pool with matching uuid '%s' (%s)", uuid.UUID(ref.UUID), ref.Name)
	}
	return p, nil
}

// poolDo is a call that does one thing with a pool.
func (d *Daemon) poolDo(ref libvirt.StoragePool, do func(*storage.Pool) error) (*none, error) {
	p, err := d.pool(ref)
	if err != nil {
		return nil, err
	}
	return nil, do(p)
}

func wirePool(p *storage.Pool) libvirt.StoragePool {
	return libvirt.StoragePool{Name: p.Name(), UUID: libvirt.UUID(p.UUID())}
}

func (d *Daemon) listAllStoragePools(_ context.Context, _ *rpc.Call, a *libvirt.ConnectListAllStoragePoolsArgs) (*libvirt.ConnectListAllStoragePoolsRet, error) {
	if err := onlyFlags(uint32(a.Flags), uint32(storage.ListKnown), "virConnectListAllStoragePools"); err != nil {
		return nil, err
	}
	list := d.cfg.Storage.List(storage.ListFlags(a.Flags))
	ret := &libvirt.ConnectListAllStoragePoolsRet{Ret: uint32(len(list))}
	if a.NeedResults != 0 {
		for _, p := range list {
			ret.Pools = append(ret.Pools, wirePool(p))
		}
	}
	return ret, nil
}

func (d *Daemon) numOfStoragePools(context.Context, *rpc.Call, *none) (*libvirt.ConnectNumOfStoragePoolsRet, error) {
	return &libvirt.ConnectNumOfStoragePoolsRet{Num: int32(len(d.cfg.Storage.List(storage.ListActive)))}, nil
}

func (d *Daemon) numOfDefinedStoragePools(context.Context, *rpc.Call, *none) (*libvirt.ConnectNumOfDefinedStoragePoolsRet, error) {
	return &libvirt.ConnectNumOfDefinedStoragePoolsRet{Num: int32(len(d.cfg.Storage.List(storage.ListInactive)))}, nil
}

func (d *Daemon) listStoragePools(_ context.Context, _ *rpc.Call, a *libvirt.ConnectListStoragePoolsArgs) (*libvirt.ConnectListStoragePoolsRet, error) {
	return &libvirt.ConnectListStoragePoolsRet{Names: poolNames(d.cfg.Storage.List(storage.ListActive), a.Maxnames)}, nil
}

func (d *Daemon) listDefinedStoragePools(_ context.Context, _ *rpc.Call, a *libvirt.ConnectListDefinedStoragePoolsArgs) (*libvirt.ConnectListDefinedStoragePoolsRet, error) {
	return &libvirt.ConnectListDefinedStoragePoolsRet{Names: poolNames(d.cfg.Storage.List(storage.ListInactive), a.Maxnames)}, nil
}

func poolNames(list []*storage.Pool, most int32) []string {
	var names []string
	for _, p := range list {
		if len(names) < int(most) {
			names = append(names, p.Name())
		}
	}
	return names
}

func (d *Daemon) storagePoolCapabilities(_ context.Context, _ *rpc.Call, a *libvirt.ConnectGetStoragePoolCapabilitiesArgs) (*libvirt.ConnectGetStoragePoolCapabilitiesRet, error) {
	if err := noFlags(a.Flags, "virConnectGetStoragePoolCapabilities"); err != nil {
		return nil, err
	}
	return &libvirt.ConnectGetStoragePoolCapabilitiesRet{Capabilities: d.cfg.Storage.Capabilities()}, nil
}

// findStoragePoolSources lists what pools could be made of. A specification is for the types of pools that ask a server.
func (d *Daemon) findStoragePoolSources(_ context.Context, _ *rpc.Call, a *libvirt.ConnectFindStoragePoolSourcesArgs) (*libvirt.ConnectFindStoragePoolSourcesRet, error) {
	if err := noFlags(a.Flags, "virConnectFindStoragePoolSources"); err != nil {
		return nil, err
	}
	xml, err := d.cfg.Storage.FindSources(a.Type)
	if err != nil {
		return nil, err
	}
	return &libvirt.ConnectFindStoragePoolSourcesRet{XML: xml}, nil
}

func (d *Daemon) storagePoolLookupByName(_ context.Context, _ *rpc.Call, a *libvirt.StoragePoolLookupByNameArgs) (*libvirt.StoragePoolLookupByNameRet, error) {
	p, err := d.cfg.Storage.LookupByName(a.Name)
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolLookupByNameRet{Pool: wirePool(p)}, nil
}

func (d *Daemon) storagePoolLookupByUUID(_ context.Context, _ *rpc.Call, a *libvirt.StoragePoolLookupByUUIDArgs) (*libvirt.StoragePoolLookupByUUIDRet, error) {
	p, err := d.cfg.Storage.LookupByUUID(uuid.UUID(a.UUID))
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolLookupByUUIDRet{Pool: wirePool(p)}, nil
}

func (d *Daemon) storagePoolLookupByVolume(_ context.Context, _ *rpc.Call, a *libvirt.StoragePoolLookupByVolumeArgs) (*libvirt.StoragePoolLookupByVolumeRet, error) {
	p, err := d.cfg.Storage.LookupByName(a.Vol.Pool)
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolLookupByVolumeRet{Pool: wirePool(p)}, nil
}

func (d *Daemon) storagePoolLookupByTargetPath(_ context.Context, _ *rpc.Call, a *libvirt.StoragePoolLookupByTargetPathArgs) (*libvirt.StoragePoolLookupByTargetPathRet, error) {
	p, err := d.cfg.Storage.LookupByTarget(a.Path)
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolLookupByTargetPathRet{Pool: wirePool(p)}, nil
}

func (d *Daemon) storagePoolCreateXML(_ context.Context, _ *rpc.Call, a *libvirt.StoragePoolCreateXMLArgs) (*libvirt.StoragePoolCreateXMLRet, error) {
	p, err := d.cfg.Storage.Create(a.XML, storage.StartFlags(a.Flags))
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolCreateXMLRet{Pool: wirePool(p)}, nil
}

func (d *Daemon) storagePoolDefineXML(_ context.Context, _ *rpc.Call, a *libvirt.StoragePoolDefineXMLArgs) (*libvirt.StoragePoolDefineXMLRet, error) {
	const validate = 1 // VIR_STORAGE_POOL_DEFINE_VALIDATE; unknown words are refused anyway
	if err := onlyFlags(a.Flags, validate, "virStoragePoolDefineXML"); err != nil {
		return nil, err
	}
	p, err := d.cfg.Storage.Define(a.XML)
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolDefineXMLRet{Pool: wirePool(p)}, nil
}

func (d *Daemon) storagePoolCreate(_ context.Context, _ *rpc.Call, a *libvirt.StoragePoolCreateArgs) (*none, error) {
	return d.poolDo(a.Pool, func(p *storage.Pool) error { return p.Start(storage.StartFlags(a.Flags)) })
}

func (d *Daemon) storagePoolBuild(_ context.Context, _ *rpc.Call, a *libvirt.StoragePoolBuildArgs) (*none, error) {
	return d.poolDo(a.Pool, func(p *storage.Pool) error { return p.Build(storage.BuildFlags(a.Flags)) })
}

func (d *Daemon) storagePoolDestroy(_ context.Context, _ *rpc.Call, a *libvirt.StoragePoolDestroyArgs) (*none, error) {
	return d.poolDo(a.Pool, (*storage.Pool).Stop)
}

func (d *Daemon) storagePoolDelete(_ context.Context, _ *rpc.Call, a *libvirt.StoragePoolDeleteArgs) (*none, error) {
	if err := noFlags(uint32(a.Flags), "virStoragePoolDelete"); err != nil {
		return nil, err
	}
	return d.poolDo(a.Pool, (*storage.Pool).Delete)
}

func (d *Daemon) storagePoolUndefine(_ context.Context, _ *rpc.Call, a *libvirt.StoragePoolUndefineArgs) (*none, error) {
	return d.poolDo(a.Pool, (*storage.Pool).Undefine)
}

func (d *Daemon) storagePoolRefresh(_ context.Context, _ *rpc.Call, a *libvirt.StoragePoolRefreshArgs) (*none, error) {
	if err := noFlags(a.Flags, "virStoragePoolRefresh"); err != nil {
		return nil, err
	}
	return d.poolDo(a.Pool, (*storage.Pool).Refresh)
}

func (d *Daemon) storagePoolGetInfo(_ context.Context, _ *rpc.Call, a *libvirt.StoragePoolGetInfoArgs) (*libvirt.StoragePoolGetInfoRet, error) {
	p, err := d.pool(a.Pool)
	if err != nil {
		return nil, err
	}
	i, err := p.Info()
	if err != nil {
		return nil, err
	}
	state := libvirt.StoragePoolInactive
	if i.Active {
		state = libvirt.StoragePoolRunning
	}
	return &libvirt.StoragePoolGetInfoRet{State: uint8(state), Capacity: i.Capacity, Allocation: i.Allocation, Available: i.Available}, nil
}

func (d *Daemon) storagePoolGetXMLDesc(_ context.Context, _ *rpc.Call, a *libvirt.StoragePoolGetXMLDescArgs) (*libvirt.StoragePoolGetXMLDescRet, error) {
	const inactive = 1 // VIR_STORAGE_XML_INACTIVE
	if err := onlyFlags(uint32(a.Flags), inactive, "virStoragePoolGetXMLDesc"); err != nil {
		return nil, err
	}
	p, err := d.pool(a.Pool)
	if err != nil {
		return nil, err
	}
	xml, err := p.XML(a.Flags&inactive != 0)
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolGetXMLDescRet{XML: xml}, nil
}

func (d *Daemon) storagePoolGetAutostart(_ context.Context, _ *rpc.Call, a *libvirt.StoragePoolGetAutostartArgs) (*libvirt.StoragePoolGetAutostartRet, error) {
	p, err := d.pool(a.Pool)
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolGetAutostartRet{Autostart: boolean(p.Autostart())}, nil
}

func (d *Daemon) storagePoolSetAutostart(_ context.Context, _ *rpc.Call, a *libvirt.StoragePoolSetAutostartArgs) (*none, error) {
	return d.poolDo(a.Pool, func(p *storage.Pool) error { return p.SetAutostart(a.Autostart != 0) })
}

func (d *Daemon) storagePoolIsActive(_ context.Context, _ *rpc.Call, a *libvirt.StoragePoolIsActiveArgs) (*libvirt.StoragePoolIsActiveRet, error) {
	p, err := d.pool(a.Pool)
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolIsActiveRet{Active: boolean(p.Active())}, nil
}

func (d *Daemon) storagePoolIsPersistent(_ context.Context, _ *rpc.Call, a *libvirt.StoragePoolIsPersistentArgs) (*libvirt.StoragePoolIsPersistentRet, error) {
	p, err := d.pool(a.Pool)
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolIsPersistentRet{Persistent: boolean(p.Persistent())}, nil
}
