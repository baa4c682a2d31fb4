package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"virtd/domain/manager"
	"virtd/rpc"
	"virtd/virterr"
)

func (d *Daemon) registerDomains(reg *rpc.Registry) {
	onQuick(reg, rpc.ProcDomainLookupByName, d.lookupByName)
	onQuick(reg, rpc.ProcDomainLookupByUUID, d.lookupByUUID)
	onQuick(reg, rpc.ProcDomainLookupByID, d.lookupByID)
	onQuick(reg, rpc.ProcConnectListAllDomains, d.listAllDomains)
	onQuick(reg, rpc.ProcConnectListDomains, d.listDomains)
	onQuick(reg, rpc.ProcConnectNumOfDomains, d.numOfDomains)
	onQuick(reg, rpc.ProcConnectListDefinedDomains, d.listDefinedDomains)
	onQuick(reg, rpc.ProcConnectNumOfDefinedDomains, d.numOfDefinedDomains)
	on(reg, rpc.ProcDomainGetInfo, d.domainGetInfo)
	onQuick(reg, rpc.ProcDomainGetState, d.domainGetState)
	on(reg, rpc.ProcDomainGetOsType, d.domainGetOSType)
	onQuick(reg, rpc.ProcDomainIsActive, d.domainIsActive)
	onQuick(reg, rpc.ProcDomainIsPersistent, d.domainIsPersistent)
	on(reg, rpc.ProcDomainIsUpdated, d.domainIsUpdated)
	on(reg, rpc.ProcDomainGetAutostart, d.domainGetAutostart)
	on(reg, rpc.ProcDomainSetAutostart, d.domainSetAutostart)
	on(reg, rpc.ProcDomainGetSecurityLabel, d.domainGetSecurityLabel)
	on(reg, rpc.ProcDomainGetSecurityLabelList, d.domainGetSecurityLabelList)
	on(reg, rpc.ProcDomainGetMessages, d.domainGetMessages)
	on(reg, rpc.ProcDomainGetControlInfo, d.domainGetControlInfo)
}

func (d *Daemon) lookupByName(_ context.Context, _ *rpc.Call, a *libvirt.DomainLookupByNameArgs) (*libvirt.DomainLookupByNameRet, error) {
	dom, err := d.mgr.LookupByName(a.Name)
	if err != nil {
		return nil, err
	}
	return &libvirt.DomainLookupByNameRet{Dom: wire(dom.Ref())}, nil
}

func (d *Daemon) lookupByUUID(_ context.Context, _ *rpc.Call, a *libvirt.DomainLookupByUUIDArgs) (*libvirt.DomainLookupByUUIDRet, error) {
	dom, err := d.mgr.LookupByUUID(uuid.UUID(a.UUID))
	if err != nil {
		return nil, err
	}
	return &libvirt.DomainLookupByUUIDRet{Dom: wire(dom.Ref())}, nil
}

func (d *Daemon) lookupByID(_ context.Context, _ *rpc.Call, a *libvirt.DomainLookupByIDArgs) (*libvirt.DomainLookupByIDRet, error) {
	dom, err := d.mgr.LookupByID(int(a.ID))
	if err != nil {
		return nil, err
	}
	return &libvirt.DomainLookupByIDRet{Dom: wire(dom.Ref())}, nil
}

func (d *Daemon) listAllDomains(_ context.Context, _ *rpc.Call, a *libvirt.ConnectListAllDomainsArgs) (*libvirt.ConnectListAllDomainsRet, error) {
	const known = 1<<16 - 1 // virConnectListAllDomainsFlags
	if err := onlyFlags(uint32(a.Flags), known, "virConnectListAllDomains"); err != nil {
		return nil, err
	}
	list := manager.ListAs(d.mgr, manager.ListFlags(a.Flags), func(_ *manager.Domain, ref manager.Ref) libvirt.Domain { return wire(ref) })
	ret := &libvirt.ConnectListAllDomainsRet{Ret: uint32(len(list))}
	if a.NeedResults != 0 {
		ret.Domains = list
	}
	return ret, nil
}

func (d *Daemon) listDomains(_ context.Context, _ *rpc.Call, a *libvirt.ConnectListDomainsArgs) (*libvirt.ConnectListDomainsRet, error) {
	ret := &libvirt.ConnectListDomainsRet{}
	ids := manager.ListAs(d.mgr, manager.ListActive, func(_ *manager.Domain, ref manager.Ref) int32 { return int32(ref.ID) })
	for _, id := range ids {
		if id > 0 && len(ret.Ids) < int(a.Maxids) {
			ret.Ids = append(ret.Ids, id)
		}
	}
	return ret, nil
}

func (d *Daemon) numOfDomains(context.Context, *rpc.Call, *none) (*libvirt.ConnectNumOfDomainsRet, error) {
	return &libvirt.ConnectNumOfDomainsRet{Num: int32(len(d.mgr.List(manager.ListActive)))}, nil
}

func (d *Daemon) listDefinedDomains(_ context.Context, _ *rpc.Call, a *libvirt.ConnectListDefinedDomainsArgs) (*libvirt.ConnectListDefinedDomainsRet, error) {
	names := manager.ListAs(d.mgr, manager.ListInactive, func(_ *manager.Domain, ref manager.Ref) string { return ref.Name })
	return &libvirt.ConnectListDefinedDomainsRet{Names: names[:min(len(names), max(0, int(a.Maxnames)))]}, nil
}

func (d *Daemon) numOfDefinedDomains(context.Context, *rpc.Call, *none) (*libvirt.ConnectNumOfDefinedDomainsRet, error) {
	return &libvirt.ConnectNumOfDefinedDomainsRet{Num: int32(len(d.mgr.List(manager.ListInactive)))}, nil
}

func (d *Daemon) domainGetInfo(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetInfoArgs) (*libvirt.DomainGetInfoRet, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	info := dom.Info()
	return &libvirt.DomainGetInfoRet{
		State: uint8(info.State), MaxMem: info.Memory, Memory: info.CurrentMemory,
		NrVirtCPU: uint16(info.VCPUs), CPUTime: uint64(info.CPUTime),
	}, nil
}

func (d *Daemon) domainGetState(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetStateArgs) (*libvirt.DomainGetStateRet, error) {
	if err := noFlags(a.Flags, "virDomainGetState"); err != nil {
		return nil, err
	}
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	state, reason := dom.State()
	return &libvirt.DomainGetStateRet{State: int32(state), Reason: int32(reason)}, nil
}

func (d *Daemon) domainGetOSType(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetOsTypeArgs) (*libvirt.DomainGetOsTypeRet, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	t, err := dom.OSType()
	if err != nil {
		return nil, err
	}
	return &libvirt.DomainGetOsTypeRet{Type: t}, nil
}

func (d *Daemon) domainIsActive(_ context.Context, _ *rpc.Call, a *libvirt.DomainIsActiveArgs) (*libvirt.DomainIsActiveRet, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return &libvirt.DomainIsActiveRet{Active: boolean(dom.Active())}, nil
}

func (d *Daemon) domainIsPersistent(_ context.Context, _ *rpc.Call, a *libvirt.DomainIsPersistentArgs) (*libvirt.DomainIsPersistentRet, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return &libvirt.DomainIsPersistentRet{Persistent: boolean(dom.Persistent())}, nil
}

func (d *Daemon) domainIsUpdated(_ context.Context, _ *rpc.Call, a *libvirt.DomainIsUpdatedArgs) (*libvirt.DomainIsUpdatedRet, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return &libvirt.DomainIsUpdatedRet{Updated: boolean(dom.Info().Updated)}, nil
}

func (d *Daemon) domainGetAutostart(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetAutostartArgs) (*libvirt.DomainGetAutostartRet, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	on, err := dom.Autostart()
	if err != nil {
		return nil, err
	}
	return &libvirt.DomainGetAutostartRet{Autostart: boolean(on)}, nil
}

func (d *Daemon) domainSetAutostart(ctx context.Context, _ *rpc.Call, a *libvirt.DomainSetAutostartArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.SetAutostart(ctx, a.Autostart != 0)
}

// domainGetSecurityLabel answers as libvirt does without a security model: an empty label, not enforced.
func (d *Daemon) domainGetSecurityLabel(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetSecurityLabelArgs) (*libvirt.DomainGetSecurityLabelRet, error) {
	if _, err := d.domain(a.Dom); err != nil {
		return nil, err
	}
	return &libvirt.DomainGetSecurityLabelRet{Label: cString("")}, nil
}

func (d *Daemon) domainGetSecurityLabelList(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetSecurityLabelListArgs) (*libvirt.DomainGetSecurityLabelListRet, error) {
	if _, err := d.domain(a.Dom); err != nil {
		return nil, err
	}
	return &libvirt.DomainGetSecurityLabelListRet{}, nil
}

// The kinds of message (virDomainMessageType): all of virtd's are about tainting, in the sense of worth knowing.
const (
	messageDeprecation = 1
	messageTainting    = 2
)

func (d *Daemon) domainGetMessages(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetMessagesArgs) (*libvirt.DomainGetMessagesRet, error) {
	if err := onlyFlags(a.Flags, messageDeprecation|messageTainting, "virDomainGetMessages"); err != nil {
		return nil, err
	}
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	ret := &libvirt.DomainGetMessagesRet{}
	if a.Flags != 0 && a.Flags&messageTainting == 0 {
		return ret, nil
	}
	ret.Msgs, err = dom.Messages()
	return ret, err
}

// domainGetControlInfo says that nothing blocks the engine's monitor: queries never wait for a job.
func (d *Daemon) domainGetControlInfo(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetControlInfoArgs) (*libvirt.DomainGetControlInfoRet, error) {
	if err := noFlags(a.Flags, "virDomainGetControlInfo"); err != nil {
		return nil, err
	}
	if _, err := d.runningDomain(a.Dom); err != nil {
		return nil, err
	}
	return &libvirt.DomainGetControlInfoRet{}, nil
}

// runningDomain finds a domain that must run for the call to make sense.
func (d *Daemon) runningDomain(ref libvirt.Domain) (*manager.Domain, error) {
	dom, err := d.domain(ref)
	if err == nil && !dom.Active() {
		return nil, virterr.New(virterr.OperationInvalid, "domain is not running")
	}
	return dom, err
}
