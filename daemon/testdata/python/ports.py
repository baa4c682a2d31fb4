"""Ports that a client makes on a network, changes and removes, and those of a domain."""
import sys

import libvirt

libvirt.registerErrorHandler(lambda context, error: None, None)
conn = libvirt.open(sys.argv[1])
watcher = libvirt.openReadOnly(sys.argv[2])
directory = sys.argv[3]


def read(name):
    with open(f"{directory}/{name}") as f:
        return f.read()


def show(what, call):
    try:
        result = call()
        print(what, "ok" if result == 0 else result)
    except libvirt.libvirtError as e:
        print(f"{what}: code {e.get_error_code()} {e.get_error_message()}")


def describe(port):
    return [line.strip() for line in port.XMLDesc(0).splitlines() if "bandwidth" not in line and "bound" in line or "plug" in line]


port_xml = read("port.xml")
net = conn.networkDefineXML(read("net-limited.xml"))
show("off", lambda: net.portCreateXML(port_xml, 0))
net.create()
port = net.portCreateXML(port_xml, libvirt.VIR_NETWORK_PORT_CREATE_VALIDATE)
print("made", port.UUIDString(), "on", port.network().name(), describe(port))
print("listed", [p.UUIDString() for p in net.listAllPorts(0)], net.portLookupByUUID(port.UUID()).UUIDString())
print("connections", net.XMLDesc(0).splitlines()[0])
show("again", lambda: net.portCreateXML(port_xml, 0))
show("reclaim", lambda: net.portCreateXML(port_xml, libvirt.VIR_NETWORK_PORT_CREATE_RECLAIM))
show("flags", lambda: net.portCreateXML(port_xml, 4))
print("parameters", port.parameters(0))
show("set", lambda: port.setParameters({"inbound.average": 20, "inbound.peak": 30, "inbound.floor": 900, "outbound.average": 40}, 0))
print("parameters", port.parameters(0))
print(describe(port))
show("too much", lambda: port.setParameters({"inbound.floor": 1001}, 0))
show("flags", lambda: port.setParameters({"inbound.average": 1}, 1))
show("one direction", lambda: port.setParameters({"outbound.average": 50}, 0))
print("parameters", port.parameters(0))
show("none", lambda: port.setParameters({"inbound.average": 0}, 0))
print("parameters", port.parameters(0))

seen = watcher.networkLookupByName("limited").portLookupByUUIDString(port.UUIDString())
print("read only", describe(seen))
show("create", lambda: seen.network().portCreateXML(port_xml, 0))
show("set", lambda: seen.setParameters({"inbound.average": 1}, 0))
show("delete", lambda: seen.delete(0))

show("delete", lambda: port.delete(1))
show("delete", lambda: port.delete(0))
show("delete", lambda: port.delete(0))
show("set", lambda: port.setParameters({"inbound.average": 1}, 0))
show("parameters", lambda: port.parameters(0))
net.portCreateXML(port_xml, 0)
net.destroy()
net.create()
print("after a stop", net.listAllPorts(0))

# A domain's port: its rates are those of the interface, and it goes with the interface.
dom = conn.createXML(read("on-lab.xml").replace("network='lab'", "network='limited'"), 0)
port = net.listAllPorts(0)[0]
show("domain's", lambda: port.setParameters({"inbound.average": 60, "inbound.floor": 70}, 0))
print(dom.interfaceParameters("52:54:00:12:34:56", libvirt.VIR_DOMAIN_AFFECT_LIVE), port.parameters(0))
show("delete", lambda: port.delete(0))
dom.destroy()
print("after the domain", net.listAllPorts(0))
