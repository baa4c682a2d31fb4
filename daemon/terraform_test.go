package daemon_test

import (
	"bytes"
	"crypto/rand"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"

	"virtd/network/dhcp"
	"virtd/rpc"
)

// terraformCalls are the procedures that terraform-provider-libvirt calls, as its source has them (the package
// internal/provider of version 2), and the registration for events.
var terraformCalls = []uint32{
	rpc.ProcConnectOpen, rpc.ProcConnectClose, rpc.ProcNodeGetInfo, rpc.ProcDomainDefineXML, rpc.ProcDomainDestroy,
	rpc.ProcDomainGetXMLDesc, rpc.ProcDomainGetAutostart, rpc.ProcDomainLookupByName, rpc.ProcDomainLookupByUUID,
	rpc.ProcDomainSetAutostart, rpc.ProcDomainShutdown, rpc.ProcDomainUndefine, rpc.ProcNetworkCreate,
	rpc.ProcNetworkDefineXML, rpc.ProcNetworkDestroy, rpc.ProcNetworkGetXMLDesc, rpc.ProcNetworkGetAutostart,
	rpc.ProcNetworkLookupByUUID, rpc.ProcNetworkSetAutostart, rpc.ProcNetworkUndefine, rpc.ProcAuthList,
	rpc.ProcStoragePoolDefineXML, rpc.ProcStoragePoolCreate, rpc.ProcStoragePoolBuild, rpc.ProcStoragePoolDestroy,
	rpc.ProcStoragePoolDelete, rpc.ProcStoragePoolUndefine, rpc.ProcStoragePoolRefresh, rpc.ProcStoragePoolLookupByName,
	rpc.ProcStoragePoolLookupByUUID, rpc.ProcStoragePoolGetInfo, rpc.ProcStoragePoolGetXMLDesc, rpc.ProcStoragePoolSetAutostart,
	rpc.ProcStorageVolCreateXML, rpc.ProcStorageVolDelete, rpc.ProcStorageVolLookupByKey, rpc.ProcStorageVolGetInfo,
	rpc.ProcStorageVolGetXMLDesc, rpc.ProcNodeNumOfDevices, rpc.ProcNodeListDevices, rpc.ProcNodeDeviceGetXMLDesc,
	rpc.ProcNetworkIsActive, rpc.ProcConnectGetLibVersion, rpc.ProcDomainCreateWithFlags, rpc.ProcStorageVolUpload,
	rpc.ProcDomainGetState, rpc.ProcDomainUndefineFlags, rpc.ProcDomainDestroyFlags, rpc.ProcDomainInterfaceAddresses,
	rpc.ProcConnectDomainEventCallbackRegisterAny,
}

// TestTerraform makes the calls of terraform-provider-libvirt in its order, through the library that it is built on: apply
// of a pool, volumes, a network and a domain, refresh, an update, and destroy.
func TestTerraform(t *testing.T) {
	b := newTestbed(t)
	sent := &procedures{}
	l := libvirt.New(sent.watch(t, b)) // as the provider does
	if err := l.ConnectToURI("qemu:///system"); err != nil {
		t.Fatal(err)
	}
	p := &provider{t: t, b: b, l: l}
	version, err := l.ConnectGetLibVersion()
	p.check("library version", err)
	if version < 8_009_000 {
		t.Errorf("library version %d: the provider would not remove a TPM's state", version)
	}
	p.dataSources()
	pool := p.createPool()
	image, boot := p.createVolumes(pool)
	network := p.createNetwork()
	p.lease(network)
	events, err := l.LifecycleEvents(t.Context())
	p.check("events", err)
	dom := p.createDomain(image, boot, "")
	p.refresh(pool, image, network, dom)
	dom = p.updateDomain(dom, image, boot)
	p.deleteDomain(dom)
	p.expectEvents(events)
	p.deleteNetwork(network)
	p.deleteVolume(image)
	p.deleteVolume(boot)
	p.deletePool(pool)
	p.check("disconnect", l.Disconnect())
	if diff := cmp.Diff(procedureNames(terraformCalls), procedureNames(sent.list())); diff != "" {
		t.Errorf("the provider makes other calls than this test: %s", diff)
	}
}

// provider is Terraform's side: it fails the test where the provider would report an error.
type provider struct {
	t   *testing.T
	b   *testbed
	l   *libvirt.Libvirt
	mac string
}

func (p *provider) check(what string, err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatalf("%s: %v", what, err)
	}
}

func (p *provider) dataSources() {
	p.t.Helper()
	_, _, _, _, _, _, _, _, err := p.l.NodeGetInfo()
	p.check("node info", err)
	n, err := p.l.NodeNumOfDevices(libvirt.OptString{"net"}, 0)
	p.check("number of devices", err)
	names, err := p.l.NodeListDevices(libvirt.OptString{"net"}, n, 0)
	p.check("devices", err)
	if len(names) == 0 || int(n) != len(names) {
		p.t.Errorf("%d network devices, and %d names", n, len(names))
	}
	for _, name := range names {
		text, err := p.l.NodeDeviceGetXMLDesc(name, 0)
		p.check("device "+name, err)
		var device libvirtxml.NodeDevice
		if err := device.Unmarshal(text); err != nil || device.Name != name || device.Capability.Net == nil {
			p.t.Errorf("device %s: %v\n%s", name, err, text)
		}
	}
}

func (p *provider) createPool() libvirt.StoragePool {
	p.t.Helper()
	path := filepath.Join(p.b.dir, "terraform")
	want := libvirtxml.StoragePool{Type: "dir", Name: "cluster", Target: &libvirtxml.StoragePoolTarget{
		Path: path, Permissions: &libvirtxml.StoragePoolTargetPermissions{Mode: "0755"}}}
	text, err := want.Marshal()
	p.check("marshal", err)
	pool, err := p.l.StoragePoolDefineXML(text, 0)
	p.check("define pool", err)
	p.check("build pool", p.l.StoragePoolBuild(pool, 0))
	p.check("autostart pool", p.l.StoragePoolSetAutostart(pool, 1))
	p.check("start pool", p.l.StoragePoolCreate(pool, 0))
	p.check("refresh pool", p.l.StoragePoolRefresh(pool, 0))
	text, err = p.l.StoragePoolGetXMLDesc(pool, 0)
	p.check("read pool", err)
	var got libvirtxml.StoragePool
	if err := got.Unmarshal(text); err != nil || got.Type != "dir" || got.Name != "cluster" || got.Target.Path != path || got.Target.Permissions.Mode != "0755" {
		p.t.Errorf("pool: %v\n%s", err, text)
	}
	state, capacity, _, available, err := p.l.StoragePoolGetInfo(pool)
	p.check("pool's info", err)
	if state != uint8(libvirt.StoragePoolRunning) || capacity == 0 || available == 0 {
		p.t.Errorf("pool is in state %d with %d of %d bytes", state, available, capacity)
	}
	return pool
}

// createVolumes uploads an image that takes several packets and one for cloud-init, as volumes of their own size.
func (p *provider) createVolumes(pool libvirt.StoragePool) (image, boot libvirt.StorageVol) {
	p.t.Helper()
	data := make([]byte, 9<<20+513)
	rand.Read(data)
	image = p.upload(pool, "disk.img", data)
	iso := make([]byte, 374<<10)
	copy(iso[32<<10:], "\x01CD001\x01\x00") // a volume descriptor of ISO 9660, whose label cloud-init looks for
	copy(iso[32<<10+40:], "cidata")
	return image, p.upload(pool, "init.iso", iso)
}

func (p *provider) upload(pool libvirt.StoragePool, name string, data []byte) libvirt.StorageVol {
	p.t.Helper()
	pool, err := p.l.StoragePoolLookupByName(pool.Name)
	p.check("look pool up", err)
	volume := libvirtxml.StorageVolume{Name: name, Capacity: &libvirtxml.StorageVolumeSize{Value: uint64(len(data))},
		Target: &libvirtxml.StorageVolumeTarget{Format: &libvirtxml.StorageVolumeTargetFormat{Type: "raw"}}}
	text, err := volume.Marshal()
	p.check("marshal", err)
	vol, err := p.l.StorageVolCreateXML(pool, text, 0)
	p.check("create "+name, err)
	p.check("upload "+name, p.l.StorageVolUpload(vol, bytes.NewReader(data), 0, uint64(len(data)), 0))
	got := p.readVolume(vol)
	if got.Capacity.Value != uint64(len(data)) || got.Target.Format.Type != "raw" || got.Key != vol.Key {
		p.t.Errorf("volume %s: %+v", name, got)
	}
	if stored, err := os.ReadFile(got.Target.Path); err != nil || !bytes.Equal(stored, data) {
		p.t.Errorf("%s does not hold what was uploaded: %v", got.Target.Path, err)
	}
	return vol
}

func (p *provider) readVolume(vol libvirt.StorageVol) libvirtxml.StorageVolume {
	p.t.Helper()
	text, err := p.l.StorageVolGetXMLDesc(vol, 0)
	p.check("read volume", err)
	var got libvirtxml.StorageVolume
	p.check("parse volume", got.Unmarshal(text))
	_, capacity, _, err := p.l.StorageVolGetInfo(vol)
	p.check("volume's info", err)
	if got.Capacity == nil || got.Capacity.Value != capacity {
		p.t.Errorf("capacity is %d, and in the document:\n%s", capacity, text)
	}
	return got
}

func (p *provider) createNetwork() libvirt.Network {
	p.t.Helper()
	want := libvirtxml.Network{Name: "cluster", Forward: &libvirtxml.NetworkForward{Mode: "nat"}, Domain: &libvirtxml.NetworkDomain{Name: "cluster.test"},
		IPs: []libvirtxml.NetworkIP{{Address: "10.17.3.1", Netmask: "255.255.255.0",
			DHCP: &libvirtxml.NetworkDHCP{Ranges: []libvirtxml.NetworkDHCPRange{{Start: "10.17.3.2", End: "10.17.3.99"}}}}}}
	text, err := want.Marshal()
	p.check("marshal", err)
	network, err := p.l.NetworkDefineXML(text)
	p.check("define network", err)
	p.check("autostart network", p.l.NetworkSetAutostart(network, 1))
	p.check("start network", p.l.NetworkCreate(network))
	text, err = p.l.NetworkGetXMLDesc(network, 1)
	p.check("read network", err)
	var got libvirtxml.Network
	if err := got.Unmarshal(text); err != nil || got.Forward.Mode != "nat" || got.Bridge == nil || got.Bridge.Name == "" || got.IPs[0].DHCP.Ranges[0].End != "10.17.3.99" {
		p.t.Errorf("network: %v\n%s", err, text)
	}
	if on, err := p.l.NetworkGetAutostart(network); err != nil || on != 1 {
		p.t.Errorf("autostart is %d, %v", on, err)
	}
	return network
}

// lease lets the guest have an address.
func (p *provider) lease(network libvirt.Network) {
	p.mac = "52:54:00:17:03:10"
	p.b.netHost.SetLeases(uuid.UUID(network.UUID), []dhcp.Lease{{IP: netip.MustParseAddr("10.17.3.20"), Bits: 24, MAC: p.mac, Expires: time.Unix(2000000000, 0)}})
}

func (p *provider) createDomain(image, boot libvirt.StorageVol, id string) libvirt.Domain {
	p.t.Helper()
	disk := func(vol libvirt.StorageVol, dev string) libvirtxml.DomainDisk {
		return libvirtxml.DomainDisk{Device: "disk", Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: vol.Key}},
			Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw"}, Target: &libvirtxml.DomainDiskTarget{Dev: dev, Bus: "virtio"}}
	}
	want := libvirtxml.Domain{Type: "kvm", Name: "node", UUID: id, Memory: &libvirtxml.DomainMemory{Value: 524288, Unit: "KiB"}, VCPU: &libvirtxml.DomainVCPU{Value: 2},
		OS:       &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Arch: "x86_64", Machine: "q35", Type: "hvm"}, Kernel: "/boot/vmlinuz", Cmdline: "root=/dev/vda1"},
		Features: &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}},
		Devices: &libvirtxml.DomainDeviceList{Disks: []libvirtxml.DomainDisk{disk(image, "vda"), disk(boot, "vdb")},
			Interfaces: []libvirtxml.DomainInterface{{MAC: &libvirtxml.DomainInterfaceMAC{Address: p.mac}, Model: &libvirtxml.DomainInterfaceModel{Type: "virtio"},
				Source: &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: "cluster"}}}},
			Consoles: []libvirtxml.DomainConsole{{Source: &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}}}},
			Graphics: []libvirtxml.DomainGraphic{{VNC: &libvirtxml.DomainGraphicVNC{AutoPort: "yes"}}}}}
	text, err := want.Marshal()
	p.check("marshal", err)
	dom, err := p.l.DomainDefineXML(text)
	p.check("define domain", err)
	dom, err = p.l.DomainCreateWithFlags(dom, 0)
	p.check("start domain", err)
	p.waitForIP(dom)
	p.check("autostart domain", p.l.DomainSetAutostart(dom, 1))
	got := p.readDomain(dom)
	if len(got.Devices.Disks) != 2 || got.Devices.Disks[1].Source.File.File != boot.Key || got.Devices.Interfaces[0].Source.Network.Network != "cluster" || *got.ID <= 0 {
		p.t.Errorf("domain: %+v", got)
	}
	if on, err := p.l.DomainGetAutostart(dom); err != nil || on != 1 {
		p.t.Errorf("autostart is %d, %v", on, err)
	}
	return dom
}

// waitForIP asks for leases and then the guest's agent, whose absence must not look as though the domain were gone.
func (p *provider) waitForIP(dom libvirt.Domain) {
	p.t.Helper()
	if _, err := p.l.DomainInterfaceAddresses(dom, uint32(libvirt.DomainInterfaceAddressesSrcAgent), 0); err == nil || libvirt.IsNotFound(err) {
		p.t.Errorf("addresses from the guest's agent: %v", err)
	}
	interfaces, err := p.l.DomainInterfaceAddresses(dom, uint32(libvirt.DomainInterfaceAddressesSrcLease), 0)
	p.check("addresses", err)
	for _, i := range interfaces {
		if slices.Equal(i.Hwaddr, libvirt.OptString{p.mac}) && slices.Contains(i.Addrs, libvirt.DomainIPAddr{Addr: "10.17.3.20", Prefix: 24}) {
			return
		}
	}
	p.t.Errorf("addresses: %+v", interfaces)
}

func (p *provider) readDomain(dom libvirt.Domain) libvirtxml.Domain {
	p.t.Helper()
	text, err := p.l.DomainGetXMLDesc(dom, 0)
	p.check("read domain", err)
	var got libvirtxml.Domain
	p.check("parse domain", got.Unmarshal(text))
	return got
}

// refresh is what a plan reads, and what it must not find.
func (p *provider) refresh(pool libvirt.StoragePool, image libvirt.StorageVol, network libvirt.Network, dom libvirt.Domain) {
	p.t.Helper()
	if got, err := p.l.StoragePoolLookupByUUID(pool.UUID); err != nil || got != pool {
		p.t.Errorf("pool %+v, %v", got, err)
	}
	if got, err := p.l.StorageVolLookupByKey(image.Key); err != nil || got != image {
		p.t.Errorf("volume %+v, %v", got, err)
	}
	if got, err := p.l.NetworkLookupByUUID(network.UUID); err != nil || got != network {
		p.t.Errorf("network %+v, %v", got, err)
	}
	if got, err := p.l.DomainLookupByUUID(dom.UUID); err != nil || got != dom {
		p.t.Errorf("domain %+v, %v", got, err)
	}
	if got, err := p.l.DomainLookupByName(dom.Name); err != nil || got != dom {
		p.t.Errorf("domain %+v, %v", got, err)
	}
	other := network
	other.UUID[0]++
	if _, err := p.l.NetworkLookupByUUID(other.UUID); err == nil || !strings.Contains(err.Error(), "Network not found") {
		p.t.Errorf("a network that is not there: %v", err)
	}
}

// updateDomain stops the guest, which obeys, and defines and starts it anew.
func (p *provider) updateDomain(dom libvirt.Domain, image, boot libvirt.StorageVol) libvirt.Domain {
	p.t.Helper()
	p.check("shut down", p.l.DomainShutdown(dom))
	p.b.driver.Engine("node").GuestPoweroff()
	p.b.wait(p.t, "shut_off", "node")
	if state, _, err := p.l.DomainGetState(dom, 0); err != nil || state != int32(libvirt.DomainShutoff) {
		p.t.Errorf("state %d, %v", state, err)
	}
	p.check("undefine", p.l.DomainUndefine(dom))
	again := p.createDomain(image, boot, uuid.UUID(dom.UUID).String())
	if again.UUID != dom.UUID {
		p.t.Errorf("the domain changed from %x to %x", dom.UUID, again.UUID)
	}
	return again
}

func (p *provider) deleteDomain(dom libvirt.Domain) {
	p.t.Helper()
	if state, _, err := p.l.DomainGetState(dom, 0); err != nil || state != int32(libvirt.DomainRunning) {
		p.t.Errorf("state %d, %v", state, err)
	}
	p.check("destroy", p.l.DomainDestroyFlags(dom, libvirt.DomainDestroyGraceful))
	p.check("start again", errorOf(p.l.DomainCreateWithFlags(dom, uint32(libvirt.DomainStartPaused))))
	p.check("destroy", p.l.DomainDestroy(dom))
	p.check("undefine", p.l.DomainUndefineFlags(dom, libvirt.DomainUndefineNvram|libvirt.DomainUndefineTpm))
	if _, err := p.l.DomainLookupByUUID(dom.UUID); !libvirt.IsNotFound(err) {
		p.t.Errorf("the domain that was removed: %v", err)
	}
}

func errorOf(_ libvirt.Domain, err error) error { return err }

// expectEvents takes the events of the domain's life from its start.
func (p *provider) expectEvents(events <-chan libvirt.DomainEventLifecycleMsg) {
	p.t.Helper()
	var got []int32
	for len(got) == 0 || got[len(got)-1] != int32(libvirt.DomainEventUndefined) || len(got) < 12 {
		select {
		case e := <-events:
			got = append(got, e.Event)
		case <-time.After(20 * time.Second):
			p.t.Fatalf("events: %v", got)
		}
	}
	defined, undefined, started, suspended, resumed, stopped, shutdown := int32(0), int32(1), int32(2), int32(3), int32(4), int32(5), int32(6)
	want := []int32{
		defined, resumed, started, // apply
		shutdown, stopped, undefined, defined, resumed, started, // update
		shutdown, stopped, // destroy
		started, suspended, shutdown, stopped, undefined, // and once more
	}
	if diff := cmp.Diff(want, got); diff != "" {
		p.t.Errorf("events: %s", diff)
	}
}

func (p *provider) deleteNetwork(network libvirt.Network) {
	p.t.Helper()
	if active, err := p.l.NetworkIsActive(network); err != nil || active != 1 {
		p.t.Errorf("network is active: %d, %v", active, err)
	}
	p.check("stop network", p.l.NetworkDestroy(network))
	p.check("undefine network", p.l.NetworkUndefine(network))
}

func (p *provider) deleteVolume(vol libvirt.StorageVol) {
	p.t.Helper()
	p.check("delete volume", p.l.StorageVolDelete(vol, 0))
	if _, err := p.l.StorageVolLookupByKey(vol.Key); !strings.Contains(errorText(err), "no storage vol") {
		p.t.Errorf("a volume that is gone: %v", err)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (p *provider) deletePool(pool libvirt.StoragePool) {
	p.t.Helper()
	p.check("stop pool", p.l.StoragePoolDestroy(pool))
	p.check("delete pool", p.l.StoragePoolDelete(pool, 0))
	p.check("undefine pool", p.l.StoragePoolUndefine(pool))
	if _, err := os.Stat(filepath.Join(p.b.dir, "terraform")); !os.IsNotExist(err) {
		p.t.Errorf("the pool's directory: %v", err)
	}
}
