"""libvirt-dbus's objects: methods, properties and signals of domains, networks, pools, volumes, devices, interfaces and
secrets. Arguments: the bus's address, the directory with the documents."""
import os
import sys
import threading
import time

import gi
gi.require_version("Gio", "2.0")
from gi.repository import Gio, GLib

ROOT = "/org/libvirt/QEMU"
directory = sys.argv[2]


def retry(what, seconds=20):
    """Waits for programs that have just been started."""
    end = time.monotonic() + seconds
    while True:
        try:
            return what()
        except GLib.Error:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
bus = retry(lambda: Gio.DBusConnection.new_for_address_sync(sys.argv[1], flags, None, None))


def read(name):
    with open(os.path.join(directory, name)) as f:
        return f.read()


class Object:
    """A remote object by its path and interface."""

    def __init__(self, path, kind):
        self.path, self.interface = path, "org.libvirt." + kind

    def call(self, method, signature=None, *args):
        """Returns the result, a list when there are several."""
        got = bus.call_sync("org.libvirt", self.path, self.interface, method,
                            GLib.Variant(f"({signature})", args) if signature else None, None, 0, 60000, None).unpack()
        return got[0] if len(got) == 1 else list(got)

    def properties(self, *names):
        p = Object(self.path, "x")
        p.interface = "org.freedesktop.DBus.Properties"
        return {n: p.call("Get", "ss", self.interface, n) for n in names}

    def set(self, name, value):
        p = Object(self.path, "x")
        p.interface = "org.freedesktop.DBus.Properties"
        p.call("Set", "ssv", self.interface, name, value)

    def refused(self, method, *args):
        try:
            print(" ", method, self.call(method, *args))
        except GLib.Error as e:
            print(" ", method + ":", e.message.removeprefix("GDBus.Error:"))


signals = []
changed = threading.Condition()


def on_signal(bus, sender, path, interface, name, args):
    values = [os.path.dirname(v) + "/*" if isinstance(v, str) and v.startswith("/org/libvirt") else v for v in args.unpack()]
    with changed:
        signals.append(f"  {interface.removeprefix('org.libvirt.')} {name} {values}")
        changed.notify_all()


def expect(count):
    """Prints the next signals."""
    with changed:
        changed.wait_for(lambda: len(signals) >= count, 20)
        for line in signals[:count]:
            print(line)
        if len(signals) < count:
            print(f"  {count - len(signals)} more were expected")
        del signals[:count]


threading.Thread(target=GLib.MainLoop().run, daemon=True).start()
bus.signal_subscribe("org.libvirt", None, None, None, None, 0, on_signal)
conn = Object(ROOT, "Connect")

print("connection")
retry(lambda: conn.properties("Hostname"))
print(" ", conn.properties("Encrypted", "Hostname", "LibVersion", "Version"))
print("  capabilities", "<arch>x86_64</arch>" in conn.call("GetCapabilities"))
print("  domain capabilities", "<domain>kvm</domain>" in conn.call("GetDomainCapabilities", "ssssu", "", "", "", "", 0))
print("  models", conn.call("GetCPUModelNames", "su", "x86_64", 0)[:2])
print("  cpu map", conn.call("NodeGetCPUMap", "u", 0)[:2])
print("  free", conn.call("NodeGetFreeMemory"))
print("  memory", conn.call("NodeGetMemoryStats", "iu", -1, 0))
print("  sysinfo", "Example" in conn.call("GetSysinfo", "u", 0))

print("define and start")
dom = Object(conn.call("DomainDefineXML", "s", read("demo.xml")), "Domain")
expect(1)
print(" ", dom.properties("Active", "Autostart", "Id", "Name", "OSType", "Persistent", "Updated", "UUID"))
dom.call("Create", "u", 0)
expect(2)
print(" ", dom.properties("Active", "Id"), "state", dom.call("GetState", "u", 0))
dom.set("Autostart", GLib.Variant("b", True))
print(" ", dom.properties("Autostart"))
print("  found", all(dom.path == conn.call(m, s, v) for m, s, v in (
    ("DomainLookupByName", "s", "demo"), ("DomainLookupByID", "i", 1), ("DomainLookupByUUID", "s", "11111111-2222-4333-8444-555555555555"))))
print("  listed", conn.call("ListDomains", "u", 1) == [dom.path], conn.call("ListDomains", "u", 2))
print("  statistics", dom.call("GetStats", "uu", 1 | 8, 0)["vcpu.current"], len(conn.call("GetAllDomainStats", "uu", 0, 0)))
print("  processors", dom.call("GetVcpuPinInfo", "u", 0)[0][:2])
print("  memory", 7 in dom.call("MemoryStats", "u", 0))
print("  addresses", dom.call("InterfaceAddresses", "uu", 2, 0))
print("  job", dom.call("GetJobInfo")[0])
print("  control", dom.call("GetControlInfo", "u", 0))
print("  managed save", dom.call("HasManagedSaveImage", "u", 0))
print("what changes a running domain")
dom.call("Suspend")
dom.call("Resume")
expect(2)
dom.call("SetMemory", "tu", 400 << 10, 0)
expect(1)
dom.call("SetMetadata", "isssu", 2, "<note>text</note>", "n", "urn:example", 1)
expect(1)
print(" ", dom.call("GetMetadata", "isu", 2, "urn:example", 1))
dom.call("Reset", "u", 0)
expect(1)
dom.call("AttachDevice", "su", read("rng.xml"), 1)
expect(1)
dom.call("DetachDevice", "su", "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>", 1)
expect(1)
dom.call("PinVcpu", "uabu", 0, [True, False], 1)
expect(1)
dom.call("InjectNMI", "u", 0)
print("what is refused")
dom.refused("Create", "u", 0)
dom.refused("GetTime", "u", 0)
dom.refused("GetFSInfo", "u", 0)
dom.refused("ListDomainSnapshots", "u", 0)
dom.refused("SendKey", "uuauu", 0, 0, [1], 0)
conn.refused("DomainLookupByName", "s", "none-such")
print("stop")
dom.call("Shutdown", "u", 0)
dom.call("Destroy", "u", 0)
expect(2)
dom.call("Undefine", "u", 0)
expect(1)
dom.refused("GetState", "u", 0)

print("a network")
net = Object(conn.call("NetworkDefineXML", "s", read("net.xml")), "Network")
net.call("Create")
net.set("Autostart", GLib.Variant("b", True))
expect(2)
print(" ", net.properties("Active", "Autostart", "Name", "Persistent", "UUID"))
print("  leases", [l[3:6] for l in net.call("GetDHCPLeases", "su", "", 0)])
print("  listed", conn.call("ListNetworks", "u", 0) == [net.path])
net.call("Destroy")
net.call("Undefine")
expect(2)

print("a pool and a volume")
pool = Object(conn.call("StoragePoolDefineXML", "su", read("pool.xml"), 0), "StoragePool")
pool.call("Build", "u", 0)
pool.call("Create", "u", 0)
pool.call("Refresh", "u", 0)
expect(4)
print(" ", pool.properties("Active", "Autostart", "Name", "Persistent", "UUID"), "state", pool.call("GetInfo")[0])
vol = Object(pool.call("StorageVolCreateXML", "su", read("vol.xml"), 0), "StorageVol")
print(" ", vol.properties("Name"), vol.call("GetInfo", "u", 0)[:2], pool.call("ListStorageVolumes", "u", 0) == [vol.path])
vol.call("Resize", "tu", 4 << 20, 0)
print(" ", vol.call("GetInfo", "u", 0)[1])
vol.call("Delete", "u", 0)
pool.call("Destroy")
pool.call("Delete", "u", 0)
pool.call("Undefine")
expect(3)

print("devices, interfaces, secrets")
devices = conn.call("ListNodeDevices", "u", 2)
print("  of PCI:", len(devices))
device = Object(conn.call("NodeDeviceLookupByName", "s", "pci_0000_01_00_0"), "NodeDevice")
print(" ", device.properties("Name", "Parent"), device.call("ListCaps"), device.path in devices, "<driver>" in device.call("GetXMLDesc", "u", 0))
links = conn.call("ListInterfaces", "u", 0)
link = Object(conn.call("InterfaceLookupByName", "s", "lo"), "Interface")
print("  interfaces", len(links), link.properties("Active", "MAC", "Name"), link.path in links)
secret = Object(conn.call("SecretDefineXML", "su", read("secret.xml"), 0), "Secret")
secret.call("SetValue", "ayu", b"abc", 0)
expect(1)
print(" ", secret.properties("UUID", "UsageID", "UsageType"), secret.call("GetValue", "u", 0))
secret.call("Undefine")
expect(1)
print("left over:", signals)
