package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/domain"
	"virtd/domain/manager"
	"virtd/rpc"
)

func (d *Daemon) registerDefinition(reg *rpc.Registry) {
	onBrief(reg, rpc.ProcDomainDefineXML, d.domainDefineXML)
	onBrief(reg, rpc.ProcDomainDefineXMLFlags, d.domainDefineXMLFlags)
	onBrief(reg, rpc.ProcDomainUndefine, d.domainUndefine)
	onBrief(reg, rpc.ProcDomainUndefineFlags, d.domainUndefineFlags)
	onBrief(reg, rpc.ProcDomainRename, d.domainRename)
	onBrief(reg, rpc.ProcDomainGetXMLDesc, d.domainGetXMLDesc)
	onBrief(reg, rpc.ProcDomainGetMetadata, d.domainGetMetadata)
	onBrief(reg, rpc.ProcDomainSetMetadata, d.domainSetMetadata)
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

func (d *Daemon) domainRename(ctx context.Context, _ *rpc.Call, a *libvirt.DomainRenameArgs) (*libvirt.DomainRenameRet, error) {
	if err := noFlags(a.Flags, "virDomainRename"); err != nil {
		return nil, err
	}
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return &libvirt.DomainRenameRet{}, dom.Rename(ctx, optional(a.NewName))
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
