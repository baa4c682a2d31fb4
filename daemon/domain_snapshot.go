package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/domain"
	"virtd/domain/xmltree"
	"virtd/rpc"
	"virtd/virterr"
)

// registerSnapshots answers for snapshots and checkpoints, of which no domain has any: lists are empty, none is found, and none
// can be made. Clients ask before they undefine, and virt-manager whenever it shows a domain.
func (d *Daemon) registerSnapshots(reg *rpc.Registry) {
	on(reg, rpc.ProcDomainSnapshotNum, d.domainSnapshotNum)
	on(reg, rpc.ProcDomainSnapshotListNames, d.domainSnapshotListNames)
	on(reg, rpc.ProcDomainListAllSnapshots, d.domainListAllSnapshots)
	on(reg, rpc.ProcDomainHasCurrentSnapshot, d.domainHasCurrentSnapshot)
	on(reg, rpc.ProcDomainListAllCheckpoints, d.domainListAllCheckpoints)
	on(reg, rpc.ProcDomainSnapshotCurrent, d.domainSnapshotCurrent)
	on(reg, rpc.ProcDomainSnapshotCreateXML, d.domainSnapshotCreateXML)
	on(reg, rpc.ProcDomainSnapshotLookupByName, d.domainSnapshotLookupByName)
	on(reg, rpc.ProcDomainCheckpointLookupByName, d.domainCheckpointLookupByName)
	noSnapshot[libvirt.DomainSnapshotGetXMLDescArgs, libvirt.DomainSnapshotGetXMLDescRet](d, reg, rpc.ProcDomainSnapshotGetXMLDesc,
		func(a *libvirt.DomainSnapshotGetXMLDescArgs) libvirt.DomainSnapshot { return a.Snap })
	noSnapshot[libvirt.DomainSnapshotNumChildrenArgs, libvirt.DomainSnapshotNumChildrenRet](d, reg, rpc.ProcDomainSnapshotNumChildren,
		func(a *libvirt.DomainSnapshotNumChildrenArgs) libvirt.DomainSnapshot { return a.Snap })
	noSnapshot[libvirt.DomainSnapshotListChildrenNamesArgs, libvirt.DomainSnapshotListChildrenNamesRet](d, reg, rpc.ProcDomainSnapshotListChildrenNames,
		func(a *libvirt.DomainSnapshotListChildrenNamesArgs) libvirt.DomainSnapshot { return a.Snap })
	noSnapshot[libvirt.DomainSnapshotListAllChildrenArgs, libvirt.DomainSnapshotListAllChildrenRet](d, reg, rpc.ProcDomainSnapshotListAllChildren,
		func(a *libvirt.DomainSnapshotListAllChildrenArgs) libvirt.DomainSnapshot { return a.Snapshot })
	noSnapshot[libvirt.DomainSnapshotGetParentArgs, libvirt.DomainSnapshotGetParentRet](d, reg, rpc.ProcDomainSnapshotGetParent,
		func(a *libvirt.DomainSnapshotGetParentArgs) libvirt.DomainSnapshot { return a.Snap })
	noSnapshot[libvirt.DomainSnapshotIsCurrentArgs, libvirt.DomainSnapshotIsCurrentRet](d, reg, rpc.ProcDomainSnapshotIsCurrent,
		func(a *libvirt.DomainSnapshotIsCurrentArgs) libvirt.DomainSnapshot { return a.Snap })
	noSnapshot[libvirt.DomainSnapshotHasMetadataArgs, libvirt.DomainSnapshotHasMetadataRet](d, reg, rpc.ProcDomainSnapshotHasMetadata,
		func(a *libvirt.DomainSnapshotHasMetadataArgs) libvirt.DomainSnapshot { return a.Snap })
	noSnapshot[libvirt.DomainRevertToSnapshotArgs, none](d, reg, rpc.ProcDomainRevertToSnapshot,
		func(a *libvirt.DomainRevertToSnapshotArgs) libvirt.DomainSnapshot { return a.Snap })
	noSnapshot[libvirt.DomainSnapshotDeleteArgs, none](d, reg, rpc.ProcDomainSnapshotDelete,
		func(a *libvirt.DomainSnapshotDeleteArgs) libvirt.DomainSnapshot { return a.Snap })
}

// noSnapshot registers a call about a snapshot that somebody once knew: it is not there.
func noSnapshot[A, R any](d *Daemon, reg *rpc.Registry, number uint32, snap func(*A) libvirt.DomainSnapshot) {
	on(reg, number, func(_ context.Context, _ *rpc.Call, a *A) (*R, error) {
		s := snap(a)
		if _, err := d.domain(s.Dom); err != nil {
			return nil, err
		}
		return nil, virterr.New(virterr.NoDomainSnapshot, "no domain snapshot with matching name '%s'", s.Name)
	})
}

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

func (d *Daemon) domainSnapshotCurrent(_ context.Context, _ *rpc.Call, a *libvirt.DomainSnapshotCurrentArgs) (*libvirt.DomainSnapshotCurrentRet, error) {
	if err := d.snapshotQuery(a.Dom, a.Flags, "virDomainSnapshotCurrent"); err != nil {
		return nil, err
	}
	return nil, virterr.New(virterr.NoDomainSnapshot, "the domain does not have a current snapshot")
}

func (d *Daemon) domainSnapshotLookupByName(_ context.Context, _ *rpc.Call, a *libvirt.DomainSnapshotLookupByNameArgs) (*libvirt.DomainSnapshotLookupByNameRet, error) {
	if err := noFlags(a.Flags, "virDomainSnapshotLookupByName"); err != nil {
		return nil, err
	}
	if _, err := d.domain(a.Dom); err != nil {
		return nil, err
	}
	return nil, virterr.New(virterr.NoDomainSnapshot, "no domain snapshot with matching name '%s'", a.Name)
}

func (d *Daemon) domainCheckpointLookupByName(_ context.Context, _ *rpc.Call, a *libvirt.DomainCheckpointLookupByNameArgs) (*libvirt.DomainCheckpointLookupByNameRet, error) {
	if err := noFlags(a.Flags, "virDomainCheckpointLookupByName"); err != nil {
		return nil, err
	}
	if _, err := d.domain(a.Dom); err != nil {
		return nil, err
	}
	return nil, virterr.New(virterr.NoDomainCheckpoint, "no domain checkpoint with matching name '%s'", a.Name)
}

// domainSnapshotCreateXML refuses. Where libvirt would too, it is in libvirt's words: a raw image cannot hold a snapshot.
func (d *Daemon) domainSnapshotCreateXML(_ context.Context, _ *rpc.Call, a *libvirt.DomainSnapshotCreateXMLArgs) (*libvirt.DomainSnapshotCreateXMLRet, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	doc, err := xmltree.Parse([]byte(a.XMLDesc))
	if err != nil {
		return nil, err
	}
	if !doc.Root.Is("domainsnapshot") {
		return nil, virterr.New(virterr.XMLError, "unexpected root element <%s>, expecting <domainsnapshot>", doc.Root.Name)
	}
	def, _, err := dom.Affected(0)
	if err != nil {
		return nil, err
	}
	if err := rawSnapshot(def, a.Flags); err != nil {
		return nil, err
	}
	return nil, virterr.New(virterr.OperationUnsupported,
		"snapshots are not supported; shut the domain down and clone its volumes instead (virsh vol-clone)")
}

func rawSnapshot(def *domain.Definition, flags uint32) error {
	if flags&uint32(libvirt.DomainSnapshotCreateDiskOnly) != 0 {
		return nil // an external one, which libvirt could make
	}
	for _, disk := range def.Tree().Root.Child("devices").All("disk") {
		if format := disk.Child("driver").Attr("type"); format == "raw" && disk.Child("readonly") == nil {
			return virterr.New(virterr.ConfigUnsupported, "internal snapshot for disk %s unsupported for storage type %s",
				disk.Child("target").Attr("dev"), format)
		}
	}
	return nil
}
