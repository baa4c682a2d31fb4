package daemon_test

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/daemon"
	"virtd/domain/manager"
	"virtd/domain/store"
	"virtd/driver/fake"
	"virtd/hostcheck"
	"virtd/network"
	"virtd/network/networktest"
	"virtd/nodedev"
	"virtd/nodedev/nodedevtest"
	"virtd/rpc"
	"virtd/rpc/client"
	"virtd/secret"
	"virtd/storage"
	"virtd/storage/storagetest"
)

// testbed is a daemon over engines in memory, on a socket.
type testbed struct {
	dir    string
	sock   string // read and write
	ro     string // read-only
	driver *fake.Driver
	mgr    *manager.Manager
	pools  *storage.Manager
	server *rpc.Server

	nets    *network.Manager
	netHost *networktest.Fake

	sys     string // the host's devices, as sysfs has them
	kernel  *nodedevtest.Kernel
	uevents uevents // what the kernel says of them

	registry *rpc.Registry

	virsh string // the program that scripts run
}

// testHost is a host of 2 sockets with 2 cores of 2 threads, one processor offline.
func testHost() fstest.MapFS {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s + "\n")} }
	host := fstest.MapFS{
		"proc/sys/kernel/hostname":         file("testhost"),
		"proc/cpuinfo":                     file("processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu MHz\t\t: 2450.041\nmicrocode\t: 0xa0011d1\n\nprocessor\t: 1"),
		"proc/meminfo":                     file("MemTotal:       16777216 kB\nMemFree:         8388608 kB\nBuffers:          102400 kB\nCached:          2048000 kB"),
		"proc/stat":                        file("cpu  100 10 50 1000 20 3 2 0 0 0\ncpu0 60 5 30 500 10 2 1 0 0 0"),
		"etc/machine-id":                   file("0123456789abcdef0123456789abcdef"),
		"sys/devices/system/cpu/present":   file("0-8"),
		"sys/devices/system/cpu/online":    file("0-7"),
		"sys/devices/system/node/online":   file("0-1"),
		"sys/class/dmi/id/sys_vendor":      file("Example & Sons"),
		"sys/class/dmi/id/product_name":    file("Server"),
		"sys/class/dmi/id/product_uuid":    file("6b1a2f4e-0000-4000-8000-0123456789ab"),
		"sys/class/dmi/id/bios_vendor":     file("Example BIOS"),
		"sys/class/dmi/id/product_version": file(""),
	}
	for n, cpus := range map[string]string{"0": "0-3", "1": "4-8"} {
		dir := "sys/devices/system/node/node" + n + "/"
		host[dir+"cpulist"] = file(cpus)
		host[dir+"distance"] = file(map[string]string{"0": "10 20", "1": "20 10"}[n])
		host[dir+"meminfo"] = file("Node " + n + " MemTotal:       8388608 kB\nNode " + n + " MemFree:        4194304 kB")
		host[dir+"hugepages/hugepages-2048kB/nr_hugepages"] = file("16")
		host[dir+"hugepages/hugepages-2048kB/free_hugepages"] = file("12")
	}
	for i := range 8 {
		dir := "sys/devices/system/cpu/cpu" + string(rune('0'+i)) + "/topology/"
		host[dir+"physical_package_id"] = file(string(rune('0' + i/4)))
		host[dir+"die_id"] = file("0")
		host[dir+"cluster_id"] = file("0")
		host[dir+"core_id"] = file(string(rune('0' + i/2%2)))
		host[dir+"thread_siblings_list"] = file(string(rune('0'+i/2*2)) + "-" + string(rune('0'+i/2*2+1)))
	}
	return host
}

func newTestbed(t testing.TB) *testbed {
	t.Helper()
	b := &testbed{dir: t.TempDir(), driver: &fake.Driver{}}
	b.sock, b.ro = filepath.Join(b.dir, "libvirt-sock"), filepath.Join(b.dir, "libvirt-sock-ro")
	log := slog.New(slog.DiscardHandler)
	st, err := store.Open(store.Options{State: filepath.Join(b.dir, "state"), Run: filepath.Join(b.dir, "run")})
	if err != nil {
		t.Fatal(err)
	}
	b.netHost = &networktest.Fake{}
	b.nets, err = network.Open(network.Config{
		State: filepath.Join(b.dir, "state/networks"), Run: filepath.Join(b.dir, "run/networks"), Host: b.netHost, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.pools, err = storage.Open(storage.Config{State: filepath.Join(b.dir, "state/storage"), Run: filepath.Join(b.dir, "run/storage"), Log: log,
		Host: b.storageHost(t)})
	if err != nil {
		t.Fatal(err)
	}
	b.mgr, err = manager.New(manager.Config{Driver: b.driver, Store: st, Networks: b.nets, Volumes: b.pools, Log: log, QuitTimeout: time.Second,
		SaveDir: filepath.Join(b.dir, "save")})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.mgr.Open(context.Background()); err != nil {
		t.Fatal(err)
	}
	devices := b.devices(t, log)
	secrets, err := secret.Open(secret.Config{State: filepath.Join(b.dir, "state/secrets"), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	d := daemon.New(daemon.Config{
		Secrets: secrets, Interfaces: testInterfaces,
		Manager: b.mgr, Storage: b.pools, Networks: b.nets, Devices: devices, Hostdevs: b.hostdevs(t, log), Node: testNode(), CPU: testCPU{b.driver}, Log: log,
		Neighbours: func(mac net.HardwareAddr) ([]netip.Addr, error) {
			if mac.String() != "52:54:00:12:34:56" {
				return nil, nil
			}
			return []netip.Addr{netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("fe80::5054:ff:fe12:3456")}, nil
		},
		HostCheck: func(context.Context) hostcheck.Report {
			return hostcheck.Report{Findings: []hostcheck.Finding{{Name: "kvm", Status: hostcheck.Fail, Detail: "no /dev/kvm", Fix: "load kvm"}}}
		},
	})
	reg := rpc.NewRegistry()
	d.Register(reg)
	b.registry = reg
	b.server = rpc.NewServer(reg, rpc.Options{Logger: log})
	b.listen(t, b.sock, rpc.Policy{})
	b.listen(t, b.ro, rpc.Policy{ReadOnly: true})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := b.server.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		d.Close()
		devices.Close()
		b.pools.Close()
		b.mgr.Close()
		b.nets.Close()
	})
	return b
}

// uevents plays the kernel's part in what happens to devices.
type uevents chan nodedev.Uevent

func (u uevents) Receive() (nodedev.Uevent, error) {
	e, ok := <-u
	if !ok {
		return e, os.ErrClosed
	}
	return e, nil
}

func (u uevents) Close() error { close(u); return nil }

// devices are those of the host that package nodedev's tests have.
func (b *testbed) devices(t testing.TB, log *slog.Logger) *nodedev.Manager {
	t.Helper()
	b.uevents = make(uevents)
	b.sys = nodedevtest.Load(t, "../nodedev/testdata/host.tree")
	b.kernel = &nodedevtest.Kernel{Root: b.sys, Native: map[string]string{"0000:02:00.0": "e1000e"}, MdevAttrs: "rate 1",
		Events: func(action, path string) { b.uevents <- nodedev.Uevent{Action: action, Path: path} }}
	m, err := nodedev.Open(nodedev.Config{
		Sys: b.sys, PCIIDs: []string{"../nodedev/testdata/pci.ids"}, UUID: "6b1a2f4e-0000-4000-8000-0123456789ab", Log: log,
		Listen: func() (nodedev.Source, error) { return b.uevents, nil },
		State:  filepath.Join(b.dir, "state/mdevs"), Proc: filepath.Join(b.dir, "proc"), Dev: filepath.Join(b.dir, "dev"), Write: b.kernel.Write,
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (b *testbed) listen(t testing.TB, path string, policy rpc.Policy) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go b.server.Serve(l, policy)
}

// Dial makes the testbed a dialer for go-libvirt.
func (b *testbed) Dial() (net.Conn, error) { return net.Dial("unix", b.sock) }

// libvirt returns a connected go-libvirt client.
func (b *testbed) libvirt(t testing.TB) *libvirt.Libvirt {
	t.Helper()
	l := libvirt.NewWithDialer(b)
	if err := l.Connect(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Disconnect() })
	return l
}

// client returns an open client of our own.
func (b *testbed) client(t testing.TB, readOnly bool) *client.Client {
	t.Helper()
	c, err := client.Dial(context.Background(), b.sock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Open(context.Background(), "qemu:///system", readOnly); err != nil {
		t.Fatal(err)
	}
	return c
}

const demoXML = `<domain type='kvm'>
  <name>demo</name>
  <uuid>11111111-2222-4333-8444-555555555555</uuid>
  <title>A demo</title>
  <memory unit='MiB'>1024</memory>
  <currentMemory unit='MiB'>512</currentMemory>
  <vcpu current='2'>4</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>/boot/vmlinuz</kernel>
  </os>
  <features>
    <acpi/>
  </features>
  <on_reboot>restart</on_reboot>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='IMAGE'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <interface type='bridge'>
      <mac address='52:54:00:12:34:56'/>
      <source bridge='br0'/>
      <target dev='vnet7'/>
      <model type='virtio'/>
    </interface>
    <serial type='pty'/>
    <console type='pty'/>
    <memballoon model='virtio'/>
  </devices>
</domain>
`

const poolXML = `<pool type='dir'>
  <name>vms</name>
  <uuid>22222222-3333-4444-8555-666666666666</uuid>
  <target>
    <path>POOL</path>
    <permissions>
      <mode>0750</mode>
    </permissions>
  </target>
</pool>
`

// storageHost is a host with the block devices sdb and sdc, which are empty, and sdd, which is not.
func (b *testbed) storageHost(t testing.TB) storage.Host {
	t.Helper()
	h := storagetest.New(filepath.Join(b.dir, "storage-host"))
	for _, name := range []string{"sdb", "sdc", "sdd"} {
		if _, err := h.Device(name, 128<<20); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.OpenFile(h.Path("/dev/sdd"), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte("XFSB"), 0)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// writeXML puts documents and an image into the testbed's directory, for scripts.
func (b *testbed) writeXML(t testing.TB) {
	t.Helper()
	image := filepath.Join(b.dir, "disk.img")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	demo := replace(demoXML, "IMAGE", image)
	b.write(t, "demo.xml", demo)
	b.write(t, "other.xml", "<domain type='kvm'><name>other</name><memory>65536</memory><os><type>hvm</type><kernel>/k</kernel></os></domain>\n")
	b.write(t, "clash.xml", replace(demo, "11111111-", "99999999-"))
	b.write(t, "sametwice.xml", replace(demo, "<name>demo</name>", "<name>another</name>"))
	b.write(t, "editor.sh", "#!/bin/sh\nsed -i 's/A demo/Edited/' \"$1\"\n")
	if err := os.Chmod(filepath.Join(b.dir, "editor.sh"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.write(t, "disk-tuned.xml", "<disk type='file' device='disk'><source file='/srv/c.img'/><target dev='vdc' bus='virtio'/>"+
		"<iotune><total_iops_sec>5</total_iops_sec><group_name>bulk</group_name></iotune></disk>\n")
	b.write(t, "keyboard.xml", "<input type='keyboard' bus='virtio'/>\n")
	b.write(t, "disk-b.xml", "<disk type='file' device='disk'><source file='/srv/b.img'/><target dev='vdb' bus='virtio'/></disk>\n")
	b.write(t, "rng.xml", "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>\n")
	b.write(t, "hostdev.xml", "<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0' bus='3' slot='0' function='0'/></source></hostdev>\n")
	const mdev = "<device><parent>pci_0000_00_07_0</parent><capability type='mdev'><type id='exvgpu-1'/><attr name='rate' value='7'/>" +
		"<uuid>5e8c1a52-1b4f-4c8e-9d5f-000000000001</uuid></capability></device>\n"
	b.write(t, "mdev.xml", mdev)
	b.write(t, "mdev-none-left.xml", replace(mdev, "exvgpu-1", "exvgpu-8"))
	b.write(t, "mdev-no-parent.xml", replace(mdev, "pci_0000_00_07_0", "nosuch"))
	b.write(t, "mdev-extra.xml", replace(mdev, "<uuid>", "<size/><uuid>"))
	b.write(t, "vhba.xml", "<device><parent>scsi_host2</parent><capability type='scsi_host'><capability type='fc_host'/></capability></device>\n")
	b.write(t, "balloon.xml", "<memballoon model='virtio'/>\n")
	b.write(t, "graphics.xml", "<graphics type='vnc'/>\n")
	b.write(t, "nic-other-bridge.xml", "<interface type='bridge'><mac address='52:54:00:12:34:56'/><source bridge='br9'/><model type='virtio'/></interface>\n")
	b.write(t, "pool.xml", replace(poolXML, "POOL", filepath.Join(b.dir, "vms")))
	b.write(t, "pool-netfs.xml", "<pool type='netfs'><name>nas</name><source><host name='nas'/><dir path='/x'/></source><target><path>/mnt/nas</path></target></pool>\n")
	b.write(t, "pool-logical.xml", "<pool type='logical'><name>lvm</name><uuid>22222222-3333-4444-8555-777777777777</uuid>"+
		"<source><device path='/dev/sdb'/><name>vg</name></source></pool>\n")
	b.write(t, "pool-fs.xml", "<pool type='fs' xmlns:fs='http://libvirt.org/schemas/storagepool/fs/1.0'><name>disk</name><uuid>22222222-3333-4444-8555-888888888888</uuid>"+
		"<source><device path='/dev/sdc'/><format type='ext4'/></source><target><path>"+filepath.Join(b.dir, "disk")+"</path></target>"+
		"<fs:mount_opts><fs:option name='noatime'/></fs:mount_opts></pool>\n")
	b.write(t, "on-volume.xml", "<domain type='kvm'><name>guest</name><memory>65536</memory><os><type>hvm</type><kernel>/k</kernel></os><devices>"+
		"<disk type='volume'><driver name='qemu' type='raw'/><source pool='lvm' volume='root'/><target dev='vda' bus='virtio'/></disk></devices></domain>\n")
	b.write(t, "disk-volume.xml", "<disk type='volume'><driver name='qemu' type='raw'/><source pool='lvm' volume='data'/><target dev='vdb' bus='virtio'/></disk>\n")
	b.write(t, "disk-no-volume.xml", "<disk type='volume'><driver name='qemu' type='raw'/><source pool='lvm' volume='nobody'/><target dev='vdc' bus='virtio'/></disk>\n")
	b.write(t, "vol.xml", "<volume><name>fromxml.img</name><capacity unit='MiB'>3</capacity><allocation>0</allocation></volume>\n")
	b.write(t, "vol-qed.xml", "<volume><name>q.qed</name><capacity>1024</capacity><target><format type='qed'/></target></volume>\n")
	b.write(t, "vol-qcow2.xml", "<volume><name>q.qcow2</name><capacity>1024</capacity><target><format type='qcow2'/><compat>0.10</compat></target></volume>\n")
	b.write(t, "user.xml", "<domain type='kvm'><name>user</name><memory>65536</memory><os><type>hvm</type><kernel>/k</kernel></os><devices>"+
		"<disk type='file'><driver name='qemu' type='qcow2'/><source file='"+filepath.Join(b.dir, "vms/top.qcow2")+"'/><target dev='vda' bus='virtio'/></disk></devices></domain>\n")
	b.writeNetworks(t)
	b.write(t, "data.bin", "0123456789abcdef")
	b.writeClientXML(t)
	b.write(t, "broken.xml", "<domain type='kvm'>\n  <name>broken\n</domain>\n")
	b.write(t, "unknown.xml", "<domain type='kvm'><name>u</name><memory>65536</memory><os><type>hvm</type><kernel>/k</kernel></os><devices><tpm model='tpm-crb'/></devices></domain>\n")
}

func (b *testbed) write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// dialOnly returns a client that has not opened.
func dialOnly(t testing.TB, b *testbed) (*client.Client, error) {
	c, err := client.Dial(context.Background(), b.sock)
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}
