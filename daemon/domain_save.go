package daemon

import (
	"context"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/domain"
	"virtd/domain/manager"
	"virtd/rpc"
	"virtd/virterr"
)

func (d *Daemon) registerSave(reg *rpc.Registry) {
	onWatched(reg, rpc.ProcDomainSave, d.domainSave)
	onWatched(reg, rpc.ProcDomainSaveFlags, d.domainSaveFlags)
	onWatched(reg, rpc.ProcDomainSaveParams, d.domainSaveParams)
	on(reg, rpc.ProcDomainRestore, d.domainRestore)
	on(reg, rpc.ProcDomainRestoreFlags, d.domainRestoreFlags)
	on(reg, rpc.ProcDomainRestoreParams, d.domainRestoreParams)
	on(reg, rpc.ProcDomainSaveImageGetXMLDesc, d.domainSaveImageGetXMLDesc)
	on(reg, rpc.ProcDomainSaveImageDefineXML, d.domainSaveImageDefineXML)
	onWatched(reg, rpc.ProcDomainManagedSave, d.domainManagedSave)
	on(reg, rpc.ProcDomainHasManagedSaveImage, d.domainHasManagedSaveImage)
	on(reg, rpc.ProcDomainManagedSaveRemove, d.domainManagedSaveRemove)
	on(reg, rpc.ProcDomainManagedSaveGetXMLDesc, d.domainManagedSaveGetXMLDesc)
	on(reg, rpc.ProcDomainManagedSaveDefineXML, d.domainManagedSaveDefineXML)
	onWatched(reg, rpc.ProcDomainCoreDump, d.domainCoreDump)
	onWatched(reg, rpc.ProcDomainCoreDumpWithFormat, d.domainCoreDumpWithFormat)
	on(reg, rpc.ProcDomainGetJobInfo, d.domainGetJobInfo)
	on(reg, rpc.ProcDomainGetJobStats, d.domainGetJobStats)
	on(reg, rpc.ProcDomainAbortJob, d.domainAbortJob)
	on(reg, rpc.ProcDomainAbortJobFlags, d.domainAbortJobFlags)
}

// soonestJob is how soon the answer to a job that virsh watches may come.
const soonestJob = 50 * time.Millisecond

// onWatched registers a job that virsh watches: it makes the call in a thread, which quits the main loop when the answer is
// there, and only then runs that loop. A quit that comes first has no effect (g_main_loop_run), and virsh 9 never ends: a
// refusal, which we have within 100 µs, must not be faster than virsh.
func onWatched[A any](reg *rpc.Registry, number uint32, fn func(context.Context, *rpc.Call, *A) (*none, error)) {
	on(reg, number, func(ctx context.Context, c *rpc.Call, a *A) (*none, error) {
		soonest := time.NewTimer(soonestJob)
		defer soonest.Stop()
		_, err := fn(ctx, c, a)
		select {
		case <-soonest.C:
		case <-ctx.Done():
		}
		return nil, err
	})
}

func (d *Daemon) domainSave(ctx context.Context, _ *rpc.Call, a *libvirt.DomainSaveArgs) (*none, error) {
	return nil, d.save(ctx, a.Dom, a.To, "", 0)
}

func (d *Daemon) domainSaveFlags(ctx context.Context, _ *rpc.Call, a *libvirt.DomainSaveFlagsArgs) (*none, error) {
	return nil, d.save(ctx, a.Dom, a.To, optional(a.Dxml), a.Flags)
}

func (d *Daemon) domainSaveParams(ctx context.Context, _ *rpc.Call, a *libvirt.DomainSaveParamsArgs) (*none, error) {
	p, err := saveParams(a.Params)
	if err != nil {
		return nil, err
	}
	if p.file == "" { // what libvirt does then
		dom, err := d.domain(a.Dom)
		if err != nil {
			return nil, err
		}
		return nil, dom.ManagedSave(ctx, manager.SaveFlags(a.Flags))
	}
	return nil, d.save(ctx, a.Dom, p.file, p.xml, a.Flags)
}

func (d *Daemon) save(ctx context.Context, ref libvirt.Domain, path, xml string, flags uint32) error {
	dom, err := d.domain(ref)
	if err != nil {
		return err
	}
	return dom.Save(ctx, path, xml, manager.SaveFlags(flags))
}

func (d *Daemon) domainRestore(ctx context.Context, _ *rpc.Call, a *libvirt.DomainRestoreArgs) (*none, error) {
	return nil, d.mgr.Restore(ctx, a.From, "", 0)
}

func (d *Daemon) domainRestoreFlags(ctx context.Context, _ *rpc.Call, a *libvirt.DomainRestoreFlagsArgs) (*none, error) {
	return nil, d.mgr.Restore(ctx, a.From, optional(a.Dxml), manager.SaveFlags(a.Flags))
}

func (d *Daemon) domainRestoreParams(ctx context.Context, _ *rpc.Call, a *libvirt.DomainRestoreParamsArgs) (*none, error) {
	p, err := saveParams(a.Params)
	if err != nil {
		return nil, err
	}
	if p.file == "" {
		return nil, virterr.New(virterr.InvalidArg, "missing required parameter 'file'")
	}
	return nil, d.mgr.Restore(ctx, p.file, p.xml, manager.SaveFlags(a.Flags))
}

// saveParam are the parameters of the calls that take them (VIR_DOMAIN_SAVE_PARAM_*).
type saveParam struct{ file, xml string }

func saveParams(params []libvirt.TypedParam) (p saveParam, err error) {
	for _, t := range params {
		text, isText := t.Value.I.(string)
		switch {
		case t.Field == "file" && isText:
			p.file = text
		case t.Field == "dxml" && isText:
			p.xml = text
		case t.Field == "image_format" && isText && (text == "raw" || text == ""): // the one that there is
		default:
			return p, virterr.New(virterr.ArgumentUnsupported, "parameter '%s' is not supported for saved domains", t.Field)
		}
	}
	return p, nil
}

func (d *Daemon) domainSaveImageGetXMLDesc(_ context.Context, _ *rpc.Call, a *libvirt.DomainSaveImageGetXMLDescArgs) (*libvirt.DomainSaveImageGetXMLDescRet, error) {
	xml, err := d.mgr.SaveImageXML(a.File, domain.XMLFlags(a.Flags))
	if err != nil {
		return nil, err
	}
	return &libvirt.DomainSaveImageGetXMLDescRet{XML: xml}, nil
}

func (d *Daemon) domainSaveImageDefineXML(_ context.Context, _ *rpc.Call, a *libvirt.DomainSaveImageDefineXMLArgs) (*none, error) {
	return nil, d.mgr.SaveImageDefine(a.File, a.Dxml, manager.SaveFlags(a.Flags))
}

func (d *Daemon) domainManagedSave(ctx context.Context, _ *rpc.Call, a *libvirt.DomainManagedSaveArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.ManagedSave(ctx, manager.SaveFlags(a.Flags))
}

func (d *Daemon) domainHasManagedSaveImage(_ context.Context, _ *rpc.Call, a *libvirt.DomainHasManagedSaveImageArgs) (*libvirt.DomainHasManagedSaveImageRet, error) {
	if err := noFlags(a.Flags, "virDomainHasManagedSaveImage"); err != nil {
		return nil, err
	}
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	saved, err := dom.HasManagedSave()
	return &libvirt.DomainHasManagedSaveImageRet{Result: boolean(saved)}, err
}

func (d *Daemon) domainManagedSaveRemove(ctx context.Context, _ *rpc.Call, a *libvirt.DomainManagedSaveRemoveArgs) (*none, error) {
	if err := noFlags(a.Flags, "virDomainManagedSaveRemove"); err != nil {
		return nil, err
	}
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.RemoveManagedSave(ctx)
}

func (d *Daemon) domainManagedSaveGetXMLDesc(_ context.Context, _ *rpc.Call, a *libvirt.DomainManagedSaveGetXMLDescArgs) (*libvirt.DomainManagedSaveGetXMLDescRet, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	xml, err := dom.ManagedSaveXML(domain.XMLFlags(a.Flags))
	if err != nil {
		return nil, err
	}
	return &libvirt.DomainManagedSaveGetXMLDescRet{XML: xml}, nil
}

func (d *Daemon) domainManagedSaveDefineXML(ctx context.Context, _ *rpc.Call, a *libvirt.DomainManagedSaveDefineXMLArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.ManagedSaveDefine(ctx, optional(a.Dxml), manager.SaveFlags(a.Flags))
}

func (d *Daemon) domainCoreDump(ctx context.Context, _ *rpc.Call, a *libvirt.DomainCoreDumpArgs) (*none, error) {
	return nil, d.coreDump(ctx, a.Dom, a.To, 0, a.Flags)
}

func (d *Daemon) domainCoreDumpWithFormat(ctx context.Context, _ *rpc.Call, a *libvirt.DomainCoreDumpWithFormatArgs) (*none, error) {
	return nil, d.coreDump(ctx, a.Dom, a.To, a.Dumpformat, a.Flags)
}

func (d *Daemon) coreDump(ctx context.Context, ref libvirt.Domain, path string, format uint32, flags libvirt.DomainCoreDumpFlags) error {
	dom, err := d.domain(ref)
	if err != nil {
		return err
	}
	return dom.CoreDump(ctx, path, manager.DumpFormat(format), manager.DumpFlags(flags))
}
