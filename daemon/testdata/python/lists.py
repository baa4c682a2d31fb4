"""Every filter of listAllDomains and its siblings, and the old lists by name and number."""
import sys

import libvirt

conn = libvirt.open(sys.argv[1])
directory = sys.argv[3]
with open(directory + "/demo.xml") as f:
    demo = f.read()


def domain(number):
    return demo.replace("11111111-", f"{number}{number}111111-").replace("<name>demo", f"<name>d{number}").replace(
        "52:54:00:12:34:56", f"52:54:00:12:34:5{number}").replace("vnet7", f"vnet{number}")


off = conn.defineXML(domain(1))
running = conn.defineXML(domain(2))
running.create()
paused = conn.defineXML(domain(3))
paused.create()
paused.suspend()
auto = conn.defineXML(domain(4))
auto.setAutostart(1)
transient = conn.createXML(domain(5), 0)

names = lambda objects: sorted(o.name() for o in objects)
for flag in sorted(f for f in dir(libvirt) if f.startswith("VIR_CONNECT_LIST_DOMAINS_")):
    print(flag[len("VIR_CONNECT_LIST_DOMAINS_"):].lower(), names(conn.listAllDomains(getattr(libvirt, flag))))
active, inactive = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE, libvirt.VIR_CONNECT_LIST_DOMAINS_INACTIVE
print("active or inactive", names(conn.listAllDomains(active | inactive)))
print("active and autostart", names(conn.listAllDomains(active | libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART)))
print("active, persistent, paused", names(conn.listAllDomains(active | libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT | libvirt.VIR_CONNECT_LIST_DOMAINS_PAUSED)))
print("ids", sorted(conn.listDomainsID()) == sorted(d.ID() for d in (running, paused, transient)), conn.numOfDomains())
print("defined", sorted(conn.listDefinedDomains()), conn.numOfDefinedDomains())
for d in (off, running, paused, auto, transient):
    print(d.name(), "active", d.isActive(), "persistent", d.isPersistent(), "autostart", d.autostart(), "state", d.state(),
          "by id", d.ID() < 0 or conn.lookupByID(d.ID()).name() == d.name(), "by uuid", conn.lookupByUUID(d.UUID()).name())

with open(directory + "/pool.xml") as f:
    pool = conn.storagePoolDefineXML(f.read(), 0)
print("pools", names(conn.listAllStoragePools(0)), conn.listStoragePools(), conn.listDefinedStoragePools(),
      conn.numOfStoragePools(), conn.numOfDefinedStoragePools())
for flag in ("ACTIVE", "INACTIVE", "PERSISTENT", "TRANSIENT", "AUTOSTART", "NO_AUTOSTART", "DIR", "LOGICAL"):
    print("pools", flag.lower(), names(conn.listAllStoragePools(getattr(libvirt, "VIR_CONNECT_LIST_STORAGE_POOLS_" + flag))))
print("secrets", conn.listAllSecrets(0), conn.listSecrets(), conn.numOfSecrets())
print("interfaces", names(conn.listAllInterfaces(0)), sorted(conn.listInterfaces()), conn.listDefinedInterfaces(), conn.numOfInterfaces(), conn.numOfDefinedInterfaces())
print("filters", conn.listAllNWFilters(0), conn.listNWFilters(), conn.numOfNWFilters())
print("devices", len(conn.listAllDevices(0)) == len(conn.listDevices(None, 0)) == conn.numOfDevices(None, 0))
