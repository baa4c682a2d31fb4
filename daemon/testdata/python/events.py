"""Events of domains, pools, devices and secrets, with libvirt's event loop."""
import sys

import libvirt
import loop

loop.start()
conn = libvirt.open(sys.argv[1])
directory = sys.argv[3]
seen = loop.Seen()

# every number that this libvirt knows can be registered for, also those that never happen
ids = []


def domain_event(conn, dom, *args):
    seen.add(f"domain {dom.name()} id {dom.ID()} {args[:-1]}")


for number in range(27):
    if number == libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE:
        ids.append(conn.domainEventRegisterAny(None, number, domain_event, None))
    else:
        ids.append(conn.domainEventRegisterAny(None, number, lambda conn, dom, *a, number=number: seen.add(f"event {number} {a[:-1]}"), None))
print("domain callbacks:", len(set(ids)))


def pool_event(conn, pool, event, detail, opaque):
    seen.add(f"pool {pool.name()} event {event} detail {detail}")


def pool_refresh(conn, pool, opaque):
    seen.add(f"pool {pool.name()} refreshed")


pools = [
    conn.storagePoolEventRegisterAny(None, libvirt.VIR_STORAGE_POOL_EVENT_ID_LIFECYCLE, pool_event, None),
    conn.storagePoolEventRegisterAny(None, libvirt.VIR_STORAGE_POOL_EVENT_ID_REFRESH, pool_refresh, None),
]
device = conn.nodeDeviceEventRegisterAny(None, libvirt.VIR_NODE_DEVICE_EVENT_ID_LIFECYCLE, lambda *a: seen.add("device"), None)
network = conn.networkEventRegisterAny(None, libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE, lambda *a: seen.add("network"), None)

with open(directory + "/demo.xml") as f:
    xml = f.read()
print("define, start")
dom = conn.defineXML(xml)
dom.create()
seen.take(3)
print("suspend, resume")
dom.suspend()
dom.resume()
seen.take(2)
print("less memory")
dom.setMemory(256 * 1024)
seen.take(1)
print("limits of a disk")
dom.setBlockIoTune("vda", {"total_iops_sec": 100, "group_name": "g"}, libvirt.VIR_DOMAIN_AFFECT_LIVE)
seen.take(1)
print("metadata, title")
dom.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, "another", None, None, libvirt.VIR_DOMAIN_AFFECT_LIVE)
seen.take(1)
print("destroy, undefine")
dom.destroy()
seen.take(2)
dom.undefine()
seen.take(1)

print("only of one domain, and not after deregistration")
for number in ids:
    conn.domainEventDeregisterAny(number)
a = conn.defineXML(xml)
with open(directory + "/other.xml") as f:
    b = conn.defineXML(f.read())
only = conn.domainEventRegisterAny(b, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, domain_event, None)
a.create()
a.destroy()
b.create()
seen.take(2)
conn.domainEventDeregisterAny(only)
b.destroy()

print("a pool")
with open(directory + "/pool.xml") as f:
    pool = conn.storagePoolDefineXML(f.read(), 0)
pool.build(0)
pool.create(0)
pool.refresh(0)
pool.destroy()
pool.undefine()
seen.take(6)
for number in pools:
    conn.storagePoolEventDeregisterAny(number)
conn.nodeDeviceEventDeregisterAny(device)
conn.networkEventDeregisterAny(network)
print("left over:", seen.lines)
print("close:", conn.close())
