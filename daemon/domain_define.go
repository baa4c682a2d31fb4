package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/domain"
	"virtd/domain/manager"
	"virtd/rpc"
)

func (d *Daemon) registerDefinition(reg *rpc.Registry) {
	on(reg, rpc.ProcDomainDefineXML, d.domainDefineXML)
	on(reg, rpc.ProcDomainDefineXMLFlags, d.domainDefineXMLFlags)
	on(reg, rpc.ProcDomainUndefine, d.domainUndefine)
	on(reg, rpc.ProcDomainUndefineFlags, d.domainUndefineFlags)
	on(reg, rpc.ProcDomainGetXMLDesc, d.domainGetXMLDesc)
	on(reg, rpc.ProcDomainGetMetadata, d.domainGetMetadata)
	on(reg, rpc.ProcDomainSetMetadata, d.domainSetMetadata)
	on(reg, rpc.ProcDomainSnapshotNum, d.domainSnapshotNum)
	on(reg, rpc.ProcDomainSnapshotListNames, d.domainSnapshotListNames)
	on(reg, rpc.ProcDomainListAllSnapshots, d.domainListAllSnapshots)
	on(reg, rpc.ProcDomainHasCurrentSnapshot, d.domainHasCurrentSnapshot)
	on(reg, rpc.ProcDomainListAllCheckpoints, d.domainListAllCheckpoints)
}

func (d *Daemon) domainDefineXML(ctx context.Context, _ *rpc.Call, a *libvirt.DomainDefineXMLArgs) (*libvirt.DomainDefineXMLRet, error) {
	dom, err := d.mgr.Define(ctx, a.XML, 0)
	if err != nil {
		return nil, err
	}
	return &libvirt.DomainDefineXMLRet{Dom: wire(dom.Ref())}, nil
}

func (d *Daemon) domainDefineXMLFlags(ctx context.Context, _ *rpc.Call, a *libvirt.DomainDefineXMLFlagsArgs) (*libvirt.DomainDefineXMLFlagsRet, error) {
	dom, err := d.mgr.Define(ctx, a.XML, manager.DefineFlags(a.Flags))
	if err != nil {
		return nil, err
	}
	return &libvirt.DomainDefineXMLFlagsRet{Dom: wire(dom.Ref())}, nil
}

func (d *Daemon) domainUndefine(ctx context.Context, _ *rpc.Call, a *libvirt.DomainUndefineArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.Undefine(ctx, 0)
}

func (d *Daemon) domainUndefineFlags(ctx context.Context, _ *rpc.Call, a *libvirt.DomainUndefineFlagsArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.Undefine(ctx, manager.UndefineFlags(a.Flags))
}

func (d *Daemon) domainGetXMLDesc(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetXMLDescArgs) (*libvirt.DomainGetXMLDescRet, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	xml, err := dom.XML(domain.XMLFlags(a.Flags))
	if err != nil {
		return nil, err
	}
	return &libvirt.DomainGetXMLDescRet{XML: xml}, nil
}

func (d *Daemon) domainGetMetadata(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetMetadataArgs) (*libvirt.DomainGetMetadataRet, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	text, err := dom.Metadata(manager.MetadataType(a.Type), optional(a.Uri), manager.Affect(a.Flags))
	if err != nil {
		return nil, err
	}
	return &libvirt.DomainGetMetadataRet{Metadata: text}, nil
}

func (d *Daemon) domainSetMetadata(ctx context.Context, _ *rpc.Call, a *libvirt.DomainSetMetadataArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.SetMetadata(ctx, manager.MetadataType(a.Type), optional(a.Metadata), optional(a.Key), optional(a.Uri), manager.Affect(a.Flags))
}

// What follows is true of every domain as long as nothing can snapshot one. Clients ask before they undefine.

// snapshotFlags are all that lists of snapshots or checkpoints can be asked with.
const snapshotFlags = 1<<11 - 1

func (d *Daemon) domainSnapshotNum(_ context.Context, _ *rpc.Call, a *libvirt.DomainSnapshotNumArgs) (*libvirt.DomainSnapshotNumRet, error) {
	return &libvirt.DomainSnapshotNumRet{}, d.snapshotQuery(a.Dom, a.Flags, "virDomainSnapshotNum")
}

func (d *Daemon) domainSnapshotListNames(_ context.Context, _ *rpc.Call, a *libvirt.DomainSnapshotListNamesArgs) (*libvirt.DomainSnapshotListNamesRet, error) {
	return &libvirt.DomainSnapshotListNamesRet{}, d.snapshotQuery(a.Dom, a.Flags, "virDomainSnapshotListNames")
}

func (d *Daemon) domainListAllSnapshots(_ context.Context, _ *rpc.Call, a *libvirt.DomainListAllSnapshotsArgs) (*libvirt.DomainListAllSnapshotsRet, error) {
	return &libvirt.DomainListAllSnapshotsRet{}, d.snapshotQuery(a.Dom, a.Flags, "virDomainListAllSnapshots")
}

func (d *Daemon) domainHasCurrentSnapshot(_ context.Context, _ *rpc.Call, a *libvirt.DomainHasCurrentSnapshotArgs) (*libvirt.DomainHasCurrentSnapshotRet, error) {
	return &libvirt.DomainHasCurrentSnapshotRet{}, d.snapshotQuery(a.Dom, a.Flags, "virDomainHasCurrentSnapshot")
}

func (d *Daemon) domainListAllCheckpoints(_ context.Context, _ *rpc.Call, a *libvirt.DomainListAllCheckpointsArgs) (*libvirt.DomainListAllCheckpointsRet, error) {
	return &libvirt.DomainListAllCheckpointsRet{}, d.snapshotQuery(a.Dom, a.Flags, "virDomainListAllCheckpoints")
}

func (d *Daemon) snapshotQuery(ref libvirt.Domain, flags uint32, function string) error {
	if err := onlyFlags(flags, snapshotFlags, function); err != nil {
		return err
	}
	_, err := d.domain(ref)
	return err
}
