"""A Linux guest in the hands of python3-libvirt: events, a console by a stream, statistics, its life, a disk that comes and
goes, and what is said when virtd ends. Arguments: the URI, the guest, an image."""
import sys
import time

import libvirt
import loop

uri, name, image = sys.argv[1:]
loop.start()
conn = libvirt.open(uri)
seen = loop.Seen()
conn.registerCloseCallback(lambda conn, reason, opaque: seen.add(f"closed, reason {reason}"), None)
conn.setKeepAlive(5, 12)
dom = conn.lookupByName(name)
names = {libvirt.VIR_DOMAIN_EVENT_STARTED: "started", libvirt.VIR_DOMAIN_EVENT_SUSPENDED: "suspended",
         libvirt.VIR_DOMAIN_EVENT_RESUMED: "resumed", libvirt.VIR_DOMAIN_EVENT_SHUTDOWN: "shutdown",
         libvirt.VIR_DOMAIN_EVENT_STOPPED: "stopped"}
conn.domainEventRegisterAny(dom, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
                            lambda conn, dom, event, detail, opaque: seen.add(f"{names.get(event, event)} {detail}"), None)
for number, word in ((libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, "added"), (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, "removed")):
    conn.domainEventRegisterAny(dom, number, lambda conn, dom, alias, word: seen.add(f"{word} {alias}"), word)


class Console:
    """The guest's console, by a stream that does not block."""

    def __init__(self):
        self.text = ""
        self.stream = conn.newStream(libvirt.VIR_STREAM_NONBLOCK)
        dom.openConsole(None, self.stream, 0)
        self.stream.eventAddCallback(libvirt.VIR_STREAM_EVENT_READABLE, self.read, None)

    def read(self, stream, events, opaque):
        data = stream.recv(4096)
        if isinstance(data, bytes):
            self.text += data.decode(errors="replace")

    def expect(self, text, seconds=150):
        end = time.monotonic() + seconds
        while text not in self.text:
            if time.monotonic() > end:
                sys.exit(f"no {text!r} on the console:\n{self.text[-2000:]}")
            time.sleep(0.1)

    def shell(self, command, answer):
        self.stream.send(command.encode() + b"\r")
        self.expect(answer)


dom.create()
console = Console()
console.expect("LAB-GUEST: shell")
console.shell("echo typed-$((40+2))", "typed-42")
seen.take(2)
print("state", dom.state(), "active", dom.isActive())
print("cpu time", dom.getCPUStats(True)[0]["cpu_time"] > 0, "memory", dom.memoryStats()["rss"] > 0)
dom.suspend()
dom.resume()
seen.take(2)
console.shell("echo again-$((40+3))", "again-43")
disk = f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{image}'/><target dev='vdb' bus='virtio'/><serial>python</serial></disk>"
dom.attachDevice(disk)
seen.take(1)
console.shell("modprobe -a virtio_pci virtio_blk; until [ -b /dev/vda ]; do sleep 1; done; echo disk-$((1+1))", "disk-2")
console.shell("dd if=/dev/zero of=/dev/vda bs=64k count=1 conv=fsync; echo written-$((1+1))", "written-2")
print("written", dom.blockStats("vdb")[3])
dom.detachDevice(disk)
seen.take(1, 60)
try:
    dom.create()
except libvirt.libvirtError as e:
    print("error", e.get_error_code(), e.get_error_domain(), e.get_error_message())
dom.shutdown()
seen.take(2, 60)
print("state", dom.state())
