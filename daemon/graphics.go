package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
	"virtd/virterr"
)

func (d *Daemon) registerGraphics(reg *rpc.Registry) {
	on(reg, rpc.ProcDomainOpenGraphics, d.domainOpenGraphics)
	on(reg, rpc.ProcDomainOpenGraphicsFd, d.domainOpenGraphicsFD)
}

// domainOpenGraphics would give a client's socket to a display. The descriptor is closed when it returns.
func (d *Daemon) domainOpenGraphics(_ context.Context, c *rpc.Call, a *libvirt.DomainOpenGraphicsArgs) (*none, error) {
	if len(c.Files) != 1 {
		return nil, virterr.New(virterr.InvalidArg, "one file descriptor is needed, %d came", len(c.Files))
	}
	return nil, d.openGraphics(a.Dom, a.Idx, uint32(a.Flags), "qemuDomainOpenGraphics")
}

// domainOpenGraphicsFD would give a client a socket of a display.
func (d *Daemon) domainOpenGraphicsFD(_ context.Context, _ *rpc.Call, a *libvirt.DomainOpenGraphicsFdArgs) (*none, error) {
	return nil, d.openGraphics(a.Dom, a.Idx, uint32(a.Flags), "qemuDomainOpenGraphicsFD")
}

// openGraphics says that there is no display, as libvirt does of a domain without one. A display that the definition keeps
// is not provided.
func (d *Daemon) openGraphics(ref libvirt.Domain, index, flags uint32, function string) error {
	const skipAuth = 1
	if err := onlyFlags(flags, skipAuth, function); err != nil {
		return err
	}
	dom, err := d.domain(ref)
	if err != nil {
		return err
	}
	if !dom.Active() {
		return virterr.New(virterr.OperationInvalid, "domain is not running")
	}
	return virterr.New(virterr.InternalError, "No graphics backend with index %d", index)
}
