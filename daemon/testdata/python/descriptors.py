"""Descriptors that go with calls, and lives that end with a connection."""
import os
import socket
import sys
import time

import libvirt

libvirt.registerErrorHandler(lambda context, error: None, None)
conn = libvirt.open(sys.argv[1])
directory = sys.argv[3]
with open(directory + "/demo.xml") as f:
    xml = f.read()
dom = conn.defineXML(xml)
reader, writer = (end.detach() for end in socket.socketpair())


def fails(what, call):
    try:
        print(f"{what}: returned {call()!r}")
    except libvirt.libvirtError as e:
        print(f"{what}: code {e.get_error_code()}: {e.get_error_message()}")


def wait(what, condition):
    end = time.time() + 20
    while not condition() and time.time() < end:
        time.sleep(0.01)
    print(what, condition())


fails("create with files", lambda: dom.createWithFiles([writer], 0))
fails("create XML with files", lambda: conn.createXMLWithFiles(xml, [writer] * 32, 0))
fails("graphics of a domain that is off", lambda: dom.openGraphics(0, writer, 0))
dom.create()
fails("graphics", lambda: dom.openGraphics(0, writer, 0))
fails("graphics, socket from the daemon", lambda: dom.openGraphicsFD(0, libvirt.VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH))
fails("graphics with unknown flags", lambda: dom.openGraphicsFD(0, 8))
fails("associate", lambda: dom.FDAssociate("images", [writer], 0))
os.close(writer)
os.set_blocking(reader, False)


def closed():
    try:
        return os.read(reader, 1) == b""
    except BlockingIOError:
        return False


wait("the daemon has closed what it was sent:", closed)

dom.destroy()
second = libvirt.open(sys.argv[1])
second.lookupByName("demo").createWithFlags(libvirt.VIR_DOMAIN_START_AUTODESTROY)
third = libvirt.open(sys.argv[1])
theirs = third.createXML("<domain type='kvm'><name>theirs</name><memory>65536</memory><os><type>hvm</type><kernel>/k</kernel></os></domain>",
                         libvirt.VIR_DOMAIN_START_AUTODESTROY | libvirt.VIR_DOMAIN_START_PAUSED)
second.close()
wait("destroyed with its connection:", lambda: dom.state() == [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED])
print("another connection's domain:", conn.lookupByName("theirs").state())
del theirs
third.close()
wait("gone with its connection:", lambda: conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT) == [])

fourth = libvirt.open(sys.argv[1])
fourth.lookupByName("demo").createWithFlags(libvirt.VIR_DOMAIN_START_AUTODESTROY)
dom.destroy()
dom.create()
fourth.close()
time.sleep(0.3)
print("started anew by another client:", dom.isActive())
dom.destroy()
