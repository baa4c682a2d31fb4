package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/nodedev"
	"virtd/rpc"
)

// registerNodeDevices adds what looks at the host's devices. Without a manager of them the procedures are not supported.
func (d *Daemon) registerNodeDevices(reg *rpc.Registry) {
	if d.devices == nil {
		return
	}
	on(reg, rpc.ProcNodeNumOfDevices, d.nodeNumOfDevices)
	on(reg, rpc.ProcNodeListDevices, d.nodeListDevices)
	on(reg, rpc.ProcConnectListAllNodeDevices, d.listAllNodeDevices)
	on(reg, rpc.ProcNodeDeviceLookupByName, d.nodeDeviceLookupByName)
	on(reg, rpc.ProcNodeDeviceLookupScsiHostByWwn, d.nodeDeviceLookupSCSIHost)
	on(reg, rpc.ProcNodeDeviceGetXMLDesc, d.nodeDeviceGetXMLDesc)
	on(reg, rpc.ProcNodeDeviceGetParent, d.nodeDeviceGetParent)
	on(reg, rpc.ProcNodeDeviceNumOfCaps, d.nodeDeviceNumOfCaps)
	on(reg, rpc.ProcNodeDeviceListCaps, d.nodeDeviceListCaps)
	on(reg, rpc.ProcNodeDeviceGetAutostart, d.nodeDeviceGetAutostart)
	on(reg, rpc.ProcNodeDeviceIsPersistent, d.nodeDeviceIsPersistent)
	on(reg, rpc.ProcNodeDeviceIsActive, d.nodeDeviceIsActive)
	d.registerMediatedDevices(reg)
}

// listedCapabilities are the names of the flags that choose devices by what they are (VIR_CONNECT_LIST_NODE_DEVICES_CAP_*),
// from bit 0 on. This host's list has no devices of some of them.
var listedCapabilities = []string{"system", "pci", "usb_device", "usb", "net", "scsi_host", "scsi_target", "scsi", "storage",
	"fc_host", "vports", "scsi_generic", "drm", "mdev_types", "mdev", "ccw", "css", "vdpa", "ap_card", "ap_queue", "ap_matrix",
	"vpd", "ccwgroup", "ccwgroup_member"}

// chosen applies the flags of virConnectListAllNodeDevices. Of each group of flags none set means all.
func chosen(dev nodedev.Device, flags libvirt.ConnectListAllNodeDeviceFlags) bool {
	either := func(yes, no libvirt.ConnectListAllNodeDeviceFlags, is bool) bool {
		return flags&(yes|no) == 0 || is && flags&yes != 0 || !is && flags&no != 0
	}
	if !either(libvirt.ConnectListNodeDevicesActive, libvirt.ConnectListNodeDevicesInactive, dev.Active) ||
		!either(libvirt.ConnectListNodeDevicesPersistent, libvirt.ConnectListNodeDevicesTransient, dev.Persistent) {
		return false
	}
	any := true
	for bit, capability := range listedCapabilities {
		if flags&(1<<bit) == 0 {
			continue
		}
		if dev.Has(capability) {
			return true
		}
		any = false
	}
	return any
}

// knownDeviceFlags are all flags of virConnectListAllNodeDevices.
const knownDeviceFlags = libvirt.ConnectListNodeDevicesCapCcwgroupMember<<1 - 1 | libvirt.ConnectListNodeDevicesPersistent |
	libvirt.ConnectListNodeDevicesTransient | libvirt.ConnectListNodeDevicesInactive | libvirt.ConnectListNodeDevicesActive

func (d *Daemon) listAllNodeDevices(_ context.Context, _ *rpc.Call, a *libvirt.ConnectListAllNodeDevicesArgs) (*libvirt.ConnectListAllNodeDevicesRet, error) {
	if err := onlyFlags(a.Flags, uint32(knownDeviceFlags), "virConnectListAllNodeDevices"); err != nil {
		return nil, err
	}
	ret := &libvirt.ConnectListAllNodeDevicesRet{}
	for _, dev := range d.devices.List() {
		if !chosen(dev, libvirt.ConnectListAllNodeDeviceFlags(a.Flags)) {
			continue
		}
		ret.Ret++
		if a.NeedResults != 0 {
			ret.Devices = append(ret.Devices, libvirt.NodeDevice{Name: dev.Name})
		}
	}
	return ret, nil
}

// devicesWith are those with a capability; "": all.
func (d *Daemon) devicesWith(capability libvirt.OptString) []nodedev.Device {
	var out []nodedev.Device
	for _, dev := range d.devices.List() {
		if c := optional(capability); c == "" || dev.Has(c) {
			out = append(out, dev)
		}
	}
	return out
}

func (d *Daemon) nodeNumOfDevices(_ context.Context, _ *rpc.Call, a *libvirt.NodeNumOfDevicesArgs) (*libvirt.NodeNumOfDevicesRet, error) {
	if err := noFlags(a.Flags, "virNodeNumOfDevices"); err != nil {
		return nil, err
	}
	return &libvirt.NodeNumOfDevicesRet{Num: int32(len(d.devicesWith(a.Cap)))}, nil
}

func (d *Daemon) nodeListDevices(_ context.Context, _ *rpc.Call, a *libvirt.NodeListDevicesArgs) (*libvirt.NodeListDevicesRet, error) {
	if err := noFlags(a.Flags, "virNodeListDevices"); err != nil {
		return nil, err
	}
	ret := &libvirt.NodeListDevicesRet{}
	for _, dev := range d.devicesWith(a.Cap) {
		if len(ret.Names) < int(a.Maxnames) {
			ret.Names = append(ret.Names, dev.Name)
		}
	}
	return ret, nil
}

func (d *Daemon) nodeDeviceLookupByName(_ context.Context, _ *rpc.Call, a *libvirt.NodeDeviceLookupByNameArgs) (*libvirt.NodeDeviceLookupByNameRet, error) {
	dev, err := d.devices.Lookup(a.Name)
	return &libvirt.NodeDeviceLookupByNameRet{Dev: libvirt.NodeDevice{Name: dev.Name}}, err
}

func (d *Daemon) nodeDeviceLookupSCSIHost(_ context.Context, _ *rpc.Call, a *libvirt.NodeDeviceLookupScsiHostByWwnArgs) (*libvirt.NodeDeviceLookupScsiHostByWwnRet, error) {
	if err := noFlags(a.Flags, "virNodeDeviceLookupSCSIHostByWWN"); err != nil {
		return nil, err
	}
	dev, err := d.devices.LookupFCHost(a.Wwnn, a.Wwpn)
	return &libvirt.NodeDeviceLookupScsiHostByWwnRet{Dev: libvirt.NodeDevice{Name: dev.Name}}, err
}

func (d *Daemon) nodeDeviceGetXMLDesc(_ context.Context, _ *rpc.Call, a *libvirt.NodeDeviceGetXMLDescArgs) (*libvirt.NodeDeviceGetXMLDescRet, error) {
	const inactive = 1 // VIR_NODE_DEVICE_XML_INACTIVE
	if err := onlyFlags(a.Flags, inactive, "virNodeDeviceGetXMLDesc"); err != nil {
		return nil, err
	}
	describe := d.devices.XML
	if a.Flags&inactive != 0 {
		describe = d.devices.DefinedXML
	}
	text, err := describe(a.Name)
	return &libvirt.NodeDeviceGetXMLDescRet{XML: text}, err
}

func (d *Daemon) nodeDeviceGetParent(_ context.Context, _ *rpc.Call, a *libvirt.NodeDeviceGetParentArgs) (*libvirt.NodeDeviceGetParentRet, error) {
	parent, err := d.devices.Parent(a.Name)
	if err != nil || parent == "" {
		return &libvirt.NodeDeviceGetParentRet{}, err
	}
	return &libvirt.NodeDeviceGetParentRet{ParentName: libvirt.OptString{parent}}, nil
}

func (d *Daemon) nodeDeviceNumOfCaps(_ context.Context, _ *rpc.Call, a *libvirt.NodeDeviceNumOfCapsArgs) (*libvirt.NodeDeviceNumOfCapsRet, error) {
	dev, err := d.devices.Lookup(a.Name)
	return &libvirt.NodeDeviceNumOfCapsRet{Num: int32(len(dev.Caps))}, err
}

func (d *Daemon) nodeDeviceListCaps(_ context.Context, _ *rpc.Call, a *libvirt.NodeDeviceListCapsArgs) (*libvirt.NodeDeviceListCapsRet, error) {
	dev, err := d.devices.Lookup(a.Name)
	return &libvirt.NodeDeviceListCapsRet{Names: dev.Caps[:max(0, min(len(dev.Caps), int(a.Maxnames)))]}, err
}

func (d *Daemon) nodeDeviceGetAutostart(_ context.Context, _ *rpc.Call, a *libvirt.NodeDeviceGetAutostartArgs) (*libvirt.NodeDeviceGetAutostartRet, error) {
	dev, err := d.devices.Lookup(a.Name)
	return &libvirt.NodeDeviceGetAutostartRet{Autostart: boolean(dev.Autostart)}, err
}

func (d *Daemon) nodeDeviceIsPersistent(_ context.Context, _ *rpc.Call, a *libvirt.NodeDeviceIsPersistentArgs) (*libvirt.NodeDeviceIsPersistentRet, error) {
	dev, err := d.devices.Lookup(a.Name)
	return &libvirt.NodeDeviceIsPersistentRet{Persistent: boolean(dev.Persistent)}, err
}

func (d *Daemon) nodeDeviceIsActive(_ context.Context, _ *rpc.Call, a *libvirt.NodeDeviceIsActiveArgs) (*libvirt.NodeDeviceIsActiveRet, error) {
	dev, err := d.devices.Lookup(a.Name)
	return &libvirt.NodeDeviceIsActiveRet{Active: boolean(dev.Active)}, err
}
