package rpc

import (
	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/virterr"
)

// checkReadOnly says whether a read-only connection may make a call, in libvirt's words when it may not.
func checkReadOnly(p *Procedure, args any) error {
	if !p.ReadOnly {
		return virterr.New(virterr.OperationDenied, "read only access prevents %s", p.API)
	}
	return checkReadOnlyFlags(p, args)
}

// checkReadOnlyFlags refuses the arguments that make a permitted call reveal secrets or reach into the guest.
func checkReadOnlyFlags(p *Procedure, args any) error {
	secure := uint32(0)
	switch a := args.(type) {
	case *libvirt.DomainGetXMLDescArgs:
		if a.Flags&(libvirt.DomainXMLSecure|libvirt.DomainXMLMigratable) != 0 {
			secure = 1
		}
	case *libvirt.DomainSnapshotGetXMLDescArgs:
		secure = a.Flags & uint32(libvirt.DomainSnapshotXMLSecure)
	case *libvirt.DomainCheckpointGetXMLDescArgs:
		secure = a.Flags & uint32(libvirt.DomainCheckpointXMLSecure)
	case *libvirt.DomainManagedSaveGetXMLDescArgs:
		secure = uint32(a.Flags) & uint32(libvirt.DomainSaveImageXMLSecure)
	case *libvirt.DomainGetVcpusFlagsArgs:
		if a.Flags&uint32(libvirt.DomainVCPUGuest) != 0 {
			return virterr.New(virterr.OperationDenied, "read only access prevents %s", p.API)
		}
	case *libvirt.DomainInterfaceAddressesArgs:
		if a.Source == uint32(libvirt.DomainInterfaceAddressesSrcAgent) {
			return virterr.New(virterr.OperationDenied, "read only access prevents %s", p.API)
		}
	}
	if secure != 0 {
		return virterr.New(virterr.OperationDenied, "%s with secure flag", p.API)
	}
	return nil
}
