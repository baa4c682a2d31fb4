"""Every kind of event that a daemon has, as a line each. The test makes them happen, and says by a line when to deregister."""
import sys

import libvirt
import loop

loop.start()
conn = libvirt.open(sys.argv[1])


def show(*what):
    print(*what, flush=True)


kinds = {n[len("VIR_DOMAIN_EVENT_ID_"):].lower(): getattr(libvirt, n) for n in dir(libvirt) if n.startswith("VIR_DOMAIN_EVENT_ID_")}
domains = [conn.domainEventRegisterAny(None, number, lambda conn, dom, *rest, kind=kind: show(kind, dom.name(), *rest[:-1]), None)
           for kind, number in kinds.items()]
networks = [
    conn.networkEventRegisterAny(None, libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE, lambda c, net, event, detail, opaque: show("network", net.name(), event), None)]
pools = [
    conn.storagePoolEventRegisterAny(None, libvirt.VIR_STORAGE_POOL_EVENT_ID_LIFECYCLE, lambda c, pool, event, detail, opaque: show("pool", pool.name(), event), None),
    conn.storagePoolEventRegisterAny(None, libvirt.VIR_STORAGE_POOL_EVENT_ID_REFRESH, lambda c, pool, opaque: show("pool refreshed", pool.name()), None)]
devices = [
    conn.nodeDeviceEventRegisterAny(None, libvirt.VIR_NODE_DEVICE_EVENT_ID_LIFECYCLE, lambda c, dev, event, detail, opaque: show("device", dev.name(), event), None),
    conn.nodeDeviceEventRegisterAny(None, libvirt.VIR_NODE_DEVICE_EVENT_ID_UPDATE, lambda c, dev, opaque: show("device changed", dev.name()), None)]
secrets = [
    conn.secretEventRegisterAny(None, libvirt.VIR_SECRET_EVENT_ID_LIFECYCLE, lambda c, secret, event, detail, opaque: show("secret", secret.usageID(), event), None),
    conn.secretEventRegisterAny(None, libvirt.VIR_SECRET_EVENT_ID_VALUE_CHANGED, lambda c, secret, opaque: show("secret's value", secret.usageID()), None)]
show("registered", len(domains))
for line in sys.stdin:
    if line.strip() == "deregister":
        for ids, call in ((domains, conn.domainEventDeregisterAny), (networks, conn.networkEventDeregisterAny), (pools, conn.storagePoolEventDeregisterAny),
                          (devices, conn.nodeDeviceEventDeregisterAny), (secrets, conn.secretEventDeregisterAny)):
            for number in ids:
                call(number)
        show("deregistered")
    elif line.strip() == "ping":
        show("alive", conn.isAlive(), conn.getHostname())
